"""The optimizing pipeline for processors."""

from __future__ import annotations

from mlcflow.pipeline import Pipeline
from mlcflow.pipelines import reference
from mlcflow.target import Target


def pipeline(target: Target) -> Pipeline:
    """Kernels, scheduled one by one, with planned memory."""
    return Pipeline("cpu", reference.pipeline(target).stages)
