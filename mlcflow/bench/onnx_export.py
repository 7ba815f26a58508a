"""A PyTorch model as an ONNX file, for the sides that read one."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any


def export_onnx(model: Any, example: tuple, folder: Path) -> Path:
    """Export with PyTorch's own exporter; large weights lie in a file beside it."""
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    path = folder / "model.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, example, dynamo=True, verbose=False)
    assert program is not None  # only where it was told to write a file itself
    program.save(str(path))
    return path
