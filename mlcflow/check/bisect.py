"""Where a pipeline goes wrong: the first stage, the step, the kernel, and the least program."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcflow.check.attempt import Failure
from mlcflow.check.isolate import Limits
from mlcflow.check.search import Say, Search
from mlcflow.check.stages import whole_model
from mlcflow.frontends import Imported
from mlcflow.pipeline import Pipeline

STEP = Limits(seconds=30.0)
"""What each attempt may take; a model may take ten times what its trusted runs take."""


@dataclass(frozen=True)
class Culprit:
    """Where it goes wrong. ``steps``: the step; several where it cannot be told which of them.

    ``kernel`` is empty if it takes more than one. ``program`` is the least one that fails in
    the same way, from stage ``start`` on (``None``: the first); ``tried`` how many were.
    ``lines``: where the model says what is left in it, ``FILE:LINE``, if it tells.
    """

    stage: str
    steps: tuple[str, ...]
    kernel: str
    failure: Failure
    program: str
    start: str | None
    tried: int
    lines: str = ""


def bisect(
    imported: Imported,
    pipeline: Pipeline,
    *,
    inputs: Sequence[Sequence[np.ndarray]] = (),
    seed: int = 0,
    limits: Limits = STEP,
    seconds: float = 60.0,
    say: Say = lambda text: None,
) -> Culprit | None:
    """Find the stage, the step and the kernel that diverge from float64, crash or hang.

    ``limits`` hold for every attempt; a step that takes longer hangs. ``seconds`` are for making
    the program smaller. ``None``: all stages agree, on the model and on each kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        search = Search(pipeline, Path(folder), seed, limits, say)
        place = search.place(whole_model(imported, inputs=inputs, seed=seed, limits=limits))
        if place is None:
            say("the model agrees at every stage; each kernel by itself")
            single = search.kernels(len(pipeline.stages))
            place = search.place(single) if single is not None else None
        if place is None:
            return None
        say(f"stage {place.stage}: {place.failure.kind}; step {', '.join(place.names)}")
        kernel = search.kernel(place)
        if kernel:
            say(f"kernel {kernel}")
        least = search.reduce(place, kernel, seconds)
        return Culprit(
            place.stage,
            tuple(place.names),
            kernel or search.only_kernel(least.text, least.start, place),
            place.failure,
            least.text,
            least.start,
            least.tried,
            least.lines,
        )
