"""Models and inputs that the command line names."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from mlcflow.atomic import whole_file
from mlcflow.errors import MlcflowError
from mlcflow.frontends.tensor_program.function import TensorFunction
from mlcflow.mlir import ir
from mlcflow.tools.python_file import call, execute, member

if TYPE_CHECKING:
    from mlcflow.runtime.interface import Port

BFLOAT16 = "|V2"
"""How numpy stores ml_dtypes' bfloat16 in a file: two bytes without a meaning."""


def load_model(path: Path, name: str) -> tuple[Any, tuple, Mapping[str, Any]]:
    """The model that the file calls ``name`` (``model`` if empty), and its example inputs.

    A function or class that needs no arguments is called, and gives the model or
    ``(model, inputs)``; anything else is the model. Inputs that it does not give are the
    file's ``inputs``: one tensor, a tuple of them, or a dict of keyword arguments.
    """
    name = name or "model"
    module = execute(path)
    # What torch.export logs before it raises is in the error that it raises.
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    found = member(module, path, name)
    inputs = getattr(module, "inputs", ())
    if (inspect.isfunction(found) or inspect.isclass(found)) and _needs_nothing(found):
        found = call(found, path)
    if isinstance(found, tuple):
        if len(found) != 2:
            raise MlcflowError(
                f"{path}: {name}() gave {len(found)} values, expected (model, inputs)"
            )
        found, inputs = found
    if not callable(found) and not states_shapes(found):
        raise MlcflowError(
            f"{path}: '{name}': expected a torch.nn.Module, a function of tensors, or a function "
            f"that gives (model, inputs), got {type(found).__name__}"
        )
    if isinstance(inputs, Mapping):
        return found, (), inputs
    return found, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}


def states_shapes(model: Any) -> bool:
    """Whether the model needs no example inputs to be compiled: it is no PyTorch."""
    return isinstance(model, TensorFunction | ir.Module | Path)


def check_inputs(model: Any, args: tuple, kwargs: Mapping[str, Any], path: Path) -> None:
    """Raise ``MlcflowError`` when a model that takes inputs was given none at all."""
    function = getattr(model, "forward", model)
    if not args and not kwargs and not _needs_nothing(function):
        raise MlcflowError(
            f"{path}: the model takes inputs {inspect.signature(function)}, and there are none; "
            "define `inputs` in the file, return (model, inputs), or pass --input X.npy"
        )


def _needs_nothing(function: Any) -> bool:
    """Whether ``function()`` is a call that Python accepts."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def read_arrays(files: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of ``.npy`` files; two opaque bytes an element are bfloat16."""
    arrays = []
    for file in files:
        try:
            array = np.load(file, allow_pickle=False)
        except FileNotFoundError as error:
            raise click.UsageError(f"no file '{file}'") from error
        except (OSError, ValueError, EOFError) as error:
            raise MlcflowError(f"--input {file}: this is not a .npy file of numbers") from error
        if not isinstance(array, np.ndarray):
            raise MlcflowError(f"--input {file}: expected one array (.npy), got an archive")
        if array.dtype.str == BFLOAT16:
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        arrays.append(array)
    return arrays


def as_tensors(arrays: list[np.ndarray]) -> tuple:
    """numpy arrays as torch tensors of the same type."""
    import torch

    tensors = []
    for array in arrays:
        if array.dtype.name == "bfloat16":
            tensors.append(torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16))
        else:
            tensors.append(torch.from_numpy(np.ascontiguousarray(array)))
    return tuple(tensors)


def make_inputs(ports: list[Port], seed: int = 0) -> list[np.ndarray]:
    """Arrays that fit ``ports``, the same for the same ``seed``.

    Floating-point numbers are standard normal; integers are 0 or 1, which are valid indices
    of nearly anything. Raises ``MlcflowError`` for a port with an open size.
    """
    generator = np.random.default_rng(seed)
    arrays: list[np.ndarray] = []
    array: np.ndarray
    for port in ports:
        if not port.is_static:
            raise MlcflowError(f"{port}: its size is open; pass an array with --input")
        if port.numpy.kind in "iub":
            array = generator.integers(0, 2, port.shape)
        else:
            array = generator.standard_normal(port.shape)
            if port.numpy.kind == "c":
                array = array + 1j * generator.standard_normal(port.shape)
        arrays.append(np.asarray(array).astype(port.numpy))
    return arrays


def write_arrays(files: tuple[str, ...], results: list[Any]) -> None:
    """Write one result a file, as ``.npy``, each at once or not at all."""
    if len(files) != len(results):
        raise click.UsageError(
            f"--output: the model has {len(results)} results, got {len(files)} file names"
        )
    for file, result in zip(files, results, strict=True):
        with whole_file(Path(file)) as stream:
            np.save(stream, as_array(result), allow_pickle=False)


def as_array(value: Any) -> np.ndarray:
    """A result as a numpy array; a torch bfloat16 tensor as ml_dtypes' bfloat16.

    Raises ``MlcflowError`` for a tensor that is not in the memory of the processor.
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    if value.device.type != "cpu":
        raise MlcflowError(
            f"expected a tensor on the CPU, got one of {list(value.shape)} on '{value.device}'; "
            "move the model and its inputs: model.to('cpu')"
        )
    if str(value.dtype) == "torch.bfloat16":
        import ml_dtypes
        import torch

        bits: np.ndarray = value.detach().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = value.detach().numpy()
    return array
