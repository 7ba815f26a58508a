"""A compiled model that is called like the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlcflow.errors import ExecutionError
from mlcflow.frontends import Imported
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, Stages
from mlcflow.runtime.arguments import accept, as_tensor, empty, release, take
from mlcflow.runtime.dtypes import is_tensor
from mlcflow.runtime.frame import Frame, Layout, aligned
from mlcflow.runtime.interface import Port, read_interface
from mlcflow.runtime.machine_code import MachineCode


class Executable:
    """A module in the LLVM dialect, compiled and ready to be called.

    Takes numpy arrays and gives numpy arrays, or torch tensors and torch tensors, in the
    structure that the model has. Inputs are read where they lie (only an array with gaps is
    copied), results are written once. Several threads may call it at the same time.

    ``stages`` maps each stage of ``pipeline`` to the module it left; ``inputs`` and
    ``outputs`` describe the arrays; ``parameters`` are shared with the model: call
    ``prepare()`` after changing them.
    """

    def __init__(
        self, module: ir.Module, imported: Imported, stages: Stages, pipeline: Pipeline
    ) -> None:
        functions, self._messages = read_interface(module)
        ports = functions["main"]
        self.stages, self.pipeline = stages, pipeline
        self.parameters: Mapping[str, Any] = imported.parameters
        self.inputs = [port for port in ports if port.role == "input"]
        self.outputs = [port for port in ports if port.role == "output"]
        self._imported = imported
        self._layout = Layout(ports)
        placed = list(zip(ports, self._layout.starts, strict=True))
        self._arguments = [
            (port, start, port.numpy, port.shape) for port, start in placed if port.role == "input"
        ]
        self._results = [(p, start) for p, start in placed if p.role in ("output", "mutates")]
        self._plain = all(p.role == "output" and not p.returned for p, _ in self._results)
        self._failed: dict[int, int] = {}  # thread -> number of the failed assertion
        self._code = MachineCode(module, pipeline.opt_level, self._on_assertion)
        self._entry = self._code.entry("main")
        self._prepare_layout = Layout(functions.get("prepare", []))
        self._held: dict[str, Any] = {}
        self._frames: list[Frame] = []
        self.prepare()

    def prepare(self) -> None:
        """Compute again what depends on the parameters alone; call it when they changed."""
        prepared = [port for port in self._prepare_layout.ports if port.role == "prepared"]
        arrays = {
            port.name: aligned(port.nbytes).view(port.numpy).reshape(port.shape)
            for port in prepared
        }
        self._held = {**self.parameters, **arrays}
        self._frames = []
        if prepared:
            frame = Frame(self._prepare_layout, self._held)
            self._run(self._code.entry("prepare"), frame)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises ``ExecutionError`` for arguments that do not fit."""
        arrays: Any = args
        if kwargs or not self._imported.positional:
            arrays = self._flatten(args, kwargs)
        if len(arrays) != len(self._arguments):
            expected = "; ".join(map(str, self.inputs))
            raise ExecutionError(
                f"expected {len(self._arguments)} inputs ({expected}), got {len(arrays)}"
            )
        try:
            frame = self._frames.pop()  # atomic: a frame serves one call at a time
        except IndexError:
            frame = Frame(self._layout, self._held)
        words = frame.words
        kept: list = []  # copies of arrays with gaps, alive until the call is over
        sizes: dict[str, int] = {}
        tensors = self._imported.tensors and not arrays
        for value, (port, start, dtype, shape) in zip(arrays, self._arguments, strict=True):
            if (
                type(value) is np.ndarray
                and value.shape == shape
                and value.dtype == dtype
                and value.flags.c_contiguous
            ):
                where = value.__array_interface__["data"][0]
            else:
                value = accept(port, start, value, frame, sizes)
                kept.append(value)
                if type(value) is np.ndarray:
                    where = value.ctypes.data
                else:
                    where, tensors = value.data_ptr(), True
            words[start] = words[start + 1] = where
        results = []
        for port, start in self._results:
            if not port.returned:
                result = empty(port, tensor=tensors)
                results.append(result)
                if tensors:
                    where = result.data_ptr()
                else:
                    where = result.__array_interface__["data"][0]
                words[start] = words[start + 1] = where
        self._run(self._entry, frame)
        if not self._plain:
            results = self._collect(frame, results, arrays, tensors)
        self._frames.append(frame)
        return self._imported.unflatten(results)

    def _run(self, entry: Callable[[int], None], frame: Frame) -> None:
        entry(frame.packed)
        if self._failed:
            number = self._failed.pop(threading.get_ident(), None)
            if number is not None:
                raise ExecutionError(f"the model's own check failed: {self._messages[number]}")

    def _on_assertion(self, number: int) -> None:
        self._failed.setdefault(threading.get_ident(), number)

    def _flatten(self, args: tuple, kwargs: dict[str, Any]) -> list:
        try:
            return self._imported.flatten(args, kwargs)
        except TypeError as error:
            raise ExecutionError(str(error)) from error

    def _collect(self, frame: Frame, given: list, arrays: list, tensors: bool) -> list:
        """The results when the function allocated some, or overwrites inputs or parameters."""
        rest, owned = iter(given), set[int]()
        values = []
        for port, start in self._results:
            if port.returned:
                value: Any = take(port, start, frame, owned)
                values.append(as_tensor(value, port) if tensors else value)
            else:
                values.append(next(rest))
        release(owned)
        outputs = []
        for (port, _), value in zip(self._results, values, strict=True):
            if port.role == "output":
                outputs.append(value)
            else:
                _overwrite(self._find(port.name, arrays), value, port)
        return outputs

    def _find(self, name: str, arrays: list) -> Any:
        """The array behind the name of a parameter or an input."""
        for port, array in zip(self.inputs, arrays, strict=True):
            if port.name == name:
                return array
        return self.parameters[name]

    def __repr__(self) -> str:
        ports = "; ".join(map(str, [*self.inputs, *self.outputs]))
        return f"<Executable, pipeline '{self.pipeline.name}': {ports}>"


def _overwrite(target: Any, value: Any, port: Port) -> None:
    """Write ``value`` into ``target``; each is a numpy array or a torch tensor."""
    if is_tensor(target):
        target.detach().copy_(value if is_tensor(value) else as_tensor(value, port))
    else:
        target[...] = value.numpy() if is_tensor(value) else value
