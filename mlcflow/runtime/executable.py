"""A compiled model that is called like the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcflow.errors import ExecutionError
from mlcflow.frontends import Imported
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, Stages
from mlcflow.runtime.arguments import accept, as_tensor, overwrite, release, tabulate, take
from mlcflow.runtime.dtypes import torch_module
from mlcflow.runtime.frame import Frame, Layout, address, aligned_array, array_address
from mlcflow.runtime.machine_code import MachineCode, describe
from mlcflow.runtime.stored import StoredProgram

if TYPE_CHECKING:
    from mlcflow.check.certificate import Certificate
    from mlcflow.report.assembly import HotLoop
    from mlcflow.report.memory import Memory
    from mlcflow.report.profile import Profile


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
        self,
        program: ir.Module | StoredProgram,
        imported: Imported,
        stages: Stages | Callable[[], Stages],
        pipeline: Pipeline,
        threads: int | None = None,
    ) -> None:
        functions, self._messages, self._most_threads = describe(program)
        ports = functions["main"]
        self._stages, self.pipeline, self.imported = stages, pipeline, imported
        self.parameters: Mapping[str, Any] = imported.parameters
        self.inputs = [port for port in ports if port.role == "input"]
        self.outputs = [port for port in ports if port.role == "output"]
        self._positional, self._tensors = imported.positional, imported.tensors
        self._flatten_arguments, self._unflatten = imported.flatten, imported.unflatten
        self._layout = Layout(ports)
        placed = list(zip(ports, self._layout.starts, strict=True))
        self._results = [(p, start) for p, start in placed if p.role in ("output", "mutates")]
        self._plain = all(p.role == "output" and not p.returned for p, _ in self._results)
        self._tabulate()
        self._failed: dict[int, int] = {}  # thread -> number of the failed assertion
        self._raised: BaseException | None = None  # last, by a library function in Python
        callbacks = self._on_assertion, partial(setattr, self, "_raised")
        self._code = MachineCode(program, pipeline.opt_level, *callbacks)
        self._entry = self._code.entry("main")
        self.threads = self._most_threads if threads is None else threads
        self._prepare_layout = Layout(functions.get("prepare", []))
        self._held: dict[str, Any] = {}
        self._frames: list[Frame] = []
        self.prepare()

    @property
    def stages(self) -> Stages:
        """The modules that the stages left. Of a program from the cache, they are made anew."""
        if not isinstance(self._stages, Stages):
            self._stages = self._stages()
        return self._stages

    @property
    def threads(self) -> int:
        """How many threads a call may use: 1 to the target's cores. Results do not differ."""
        return self._threads

    @threads.setter
    def threads(self, number: int) -> None:
        """Set how many."""
        if not 1 <= number <= self._most_threads:
            raise ExecutionError(
                f"threads: expected 1 to {self._most_threads}, the cores of the target that "
                f"pipeline '{self.pipeline.name}' compiled for, got {number}"
            )
        self._code.use_threads(number)
        self._threads = number

    def _tabulate(self) -> None:
        """Look up in advance what a call needs, so that it only compares and writes words."""
        self._torch = torch = torch_module()
        self._tensor_class: Any = None
        self._arguments, self._allocated = tabulate(self._layout, torch)
        if torch is not None:
            self._tensor_class, self._strided = torch.Tensor, torch.strided
            self._empty, self._cpu = torch.empty_strided, torch.device("cpu")

    def prepare(self) -> None:
        """Compute again what depends on the parameters alone; call it when they changed.

        A call in another thread sees either the values before or those after.
        """
        layout = self._prepare_layout
        prepared = [port for port in layout.ports if port.role == "prepared"]
        held = dict(self.parameters) | {
            port.name: aligned_array(port.shape, port.numpy)
            for port in prepared
            if not port.returned
        }
        if prepared:
            frame, owned = Frame(layout, held), set[int]()
            self._run(self._code.entry("prepare"), frame)
            for port, start in zip(layout.ports, layout.starts, strict=True):
                if port.returned:
                    held[port.name] = take(port, start, frame, owned)
            release(owned)
        self._held, self._frames = held, []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises ``ExecutionError`` for arguments that do not fit.

        torch tensors come back if one came in, or if a torch model takes no arrays at all.
        """
        flat = self._positional and not kwargs
        arrays: Any = args if flat else self._flatten(args, kwargs)
        if len(arrays) != len(self._arguments):
            expected = "; ".join(map(str, self.inputs))
            raise ExecutionError(
                f"expected {len(self._arguments)} inputs ({expected}), got {len(arrays)}"
            )
        frames = self._frames  # this call's: ``prepare`` starts a new list
        try:
            frame = frames.pop()  # atomic: a frame serves one call at a time
        except IndexError:
            frame = Frame(self._layout, self._held)
        try:
            kept: list = []  # copies of arrays with gaps, alive until the call is over
            tensors = self._place_inputs(arrays, frame, kept)
            results = self._place_results(frame.words, tensors)
            self._run(self._entry, frame)
            if not self._plain:
                results = self._collect(frame, results, arrays, tensors)
        finally:
            frames.append(frame)
        return self._unflatten(results)

    def _place_inputs(self, arrays: Any, frame: Frame, kept: list) -> bool:
        """Point the descriptors at the inputs; returns whether the results are tensors.

        What fits and has no gaps takes the two short ways, which cost a microsecond less than
        the checks and conversions of ``accept``.
        """
        words, tensor_class = frame.words, self._tensor_class
        tensors = self._tensors and not arrays
        sizes: dict[str, int] = {}
        for value, (port, start, mask, shape, dtype, torch_dtype) in zip(
            arrays, self._arguments, strict=True
        ):
            where = 0
            kind = type(value)
            if kind is np.ndarray:
                if value.dtype is dtype and value.shape == shape and value.flags.c_contiguous:
                    where = array_address(value)
            elif kind is tensor_class:
                tensors = True
                if (
                    value.dtype is torch_dtype
                    and value.shape == shape
                    and value.is_cpu
                    and value.layout is self._strided
                    and value.is_contiguous()
                    and not value.is_neg()
                ):
                    where = value.data_ptr()
            if not where or where & mask:
                value = accept(port, start, value, frame, sizes)
                tensors = tensors or type(value) is not np.ndarray
                kept.append(value)
                where = address(value)
            words[start] = words[start + 1] = where
        return tensors

    def _place_results(self, words: Any, tensors: bool) -> list:
        """Allocate the results whose sizes are known and point the descriptors at them."""
        if tensors and self._torch is None:
            self._tabulate()  # PyTorch was imported after this executable was made
        results = []
        for start, shape, strides, dtype, torch_dtype, make in self._allocated:
            if tensors:
                # Twice as fast as torch.empty with a dtype.
                result = self._empty(shape, strides, dtype=torch_dtype, device=self._cpu)
                words[start] = words[start + 1] = result.data_ptr()
            else:
                result = make(shape, dtype)
                words[start] = words[start + 1] = array_address(result)
            results.append(result)
        return results

    def _run(self, entry: Callable[[int], None], frame: Frame) -> None:
        before = self._raised
        entry(frame.packed)
        if self._failed:
            number = self._failed.pop(threading.get_ident(), None)
            if number is not None:
                raise ExecutionError(f"the model's own check failed: {self._messages[number]}")
        error = self._raised
        if error is not before:  # in a thread of this call, or of one at the same time
            raise ExecutionError(f"a library raised {type(error).__name__}: {error}") from error

    def _on_assertion(self, number: int) -> None:
        self._failed.setdefault(threading.get_ident(), number)

    def _flatten(self, args: tuple, kwargs: dict[str, Any]) -> list:
        try:
            return self._flatten_arguments(args, kwargs)
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
                named = dict(zip((p.name for p in self.inputs), arrays, strict=True))
                overwrite({**named, **self.parameters}[port.name], value, port)
        return outputs

    @property
    def mutated_parameters(self) -> list[str]:
        """Names of the parameters and buffers that a call overwrites."""
        return [
            p.name for p, _ in self._results if p.role == "mutates" and p.name in self.parameters
        ]

    def assembly(self, kernel: str | None = None) -> str:
        """The instructions of one function, or of all. Compiles the module once more.

        Needs ``mlcflow[report]`` and x86-64 Linux; raises ``MlcflowError`` elsewhere.
        """
        from mlcflow.report import assembly

        every = [assembly.find(self, kernel)] if kernel else assembly.functions(self).values()
        return "\n\n".join(map(str, every))

    def hot_loop(self, kernel: str) -> HotLoop:
        """What the innermost loop of a kernel consists of; like :meth:`assembly` otherwise."""
        from mlcflow.report import assembly

        return assembly.hot_loop(assembly.find(self, kernel))

    def profile(self, *args: Any, seconds: float = 1.0, **kwargs: Any) -> Profile:
        """A row a kernel: time, share, rate, rule, why it is slow. ``print`` shows a table."""
        from mlcflow.report.profile import profile

        return profile(self, args, kwargs, seconds=seconds)

    def memory(self) -> Memory:
        """Bytes of weights, results and the arena, and what lies in it. ``print`` shows a table."""
        from mlcflow.report.memory import memory

        return memory(self)

    def certificate(self, *args: Any, **kwargs: Any) -> Certificate:
        """How far results and kernels are from float64, and how far they may be; see there."""
        from mlcflow.check.certificate import certificate

        return certificate(self, args, kwargs)

    def __repr__(self) -> str:
        ports = "; ".join(map(str, [*self.inputs, *self.outputs]))
        return f"<Executable, pipeline '{self.pipeline.name}': {ports}>"
