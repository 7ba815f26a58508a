"""Element types by name, as numpy and PyTorch call them, and what MLIR stores them as."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from mlcflow.errors import MlcflowError

NUMPY: dict[str, np.dtype] = {
    name: np.dtype(name)
    for name in (
        "float64", "float32", "float16", "int64", "int32", "int16", "int8",
        "uint64", "uint32", "uint16", "uint8", "bool", "complex64", "complex128",
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}  # fmt: skip
"""numpy's dtype for each name; numpy itself has no ``bfloat16``, ml_dtypes brings it."""

_OF_MLIR = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "i1": "bool",
    "index": "int64",
    "complex<f32>": "complex64",
    "complex<f64>": "complex128",
}


def of_mlir(text: str) -> str:
    """The name of an MLIR element type (signless integers are signed).

    Raises ``MlcflowError`` for a type that no array has.
    """
    if text not in _OF_MLIR:
        raise MlcflowError(
            f"arrays of {text} cannot go in or out: expected one of {', '.join(_OF_MLIR)}"
        )
    return _OF_MLIR[text]


def torch_module() -> ModuleType | None:
    """PyTorch, if this process has imported it; the runtime never imports it."""
    return sys.modules.get("torch")


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a ``torch.Tensor``."""
    torch = torch_module()
    return torch is not None and isinstance(value, torch.Tensor)
