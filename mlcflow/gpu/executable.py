"""A compiled model that runs on a GPU and is called like the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcflow.errors import ExecutionError, MlcflowError
from mlcflow.frontends import Imported
from mlcflow.gpu.device import DeviceMemory, Kernels, upload, upload_constants, without_kernels
from mlcflow.gpu.dlpack import DeviceArray, is_on_device, stream_of
from mlcflow.gpu.driver import open_driver
from mlcflow.gpu.frame import DeviceFrame
from mlcflow.gpu.graphs import Graph, is_worth, record
from mlcflow.gpu.host_calls import BIND
from mlcflow.gpu.save import save
from mlcflow.mlir import ir
from mlcflow.pipeline import Pipeline, Stages
from mlcflow.runtime.arguments import as_tensor, overwrite
from mlcflow.runtime.dtypes import is_tensor
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.frame import Layout, address
from mlcflow.runtime.interface import Port
from mlcflow.runtime.machine_code import MachineCode, describe

if TYPE_CHECKING:
    from mlcflow.report.assembly import HotLoop
    from mlcflow.report.profile import Profile

HOST_LEVEL = 1
"""LLVM's optimization level for host code, which only calls the driver."""


class DeviceExecutable(Executable):
    """A module of host code and kernels, loaded and ready to be called.

    Takes and gives what every executable does, and arrays on the device. Parameters, and what is
    computed from them alone, stay on the device: call ``prepare()`` after changing them. Several
    threads may call at the same time. Errors of the driver are raised as ``ExecutionError`` under
    their own names.
    """

    def __init__(
        self,
        module: ir.Module,
        imported: Imported,
        stages: Stages | Callable[[], Stages],
        pipeline: Pipeline,
        threads: int | None = None,
    ) -> None:
        self._driver = open_driver()
        self._driver.enter()
        functions, self._messages, self._most_threads = describe(module)
        self._stages, self.pipeline, self.imported = stages, pipeline, imported
        self._program = module
        self.parameters: Mapping[str, Any] = imported.parameters
        self._tensors, self._unflatten = imported.tensors, imported.unflatten
        self._flatten_arguments = imported.flatten
        self._layout, self._prepare_layout = (
            Layout(functions.get(name, [])) for name in ("main", "prepare")
        )
        placed = list(zip(self._layout.ports, self._layout.starts, strict=True))
        self.inputs = [port for port, _ in placed if port.role == "input"]
        self.outputs = [port for port, _ in placed if port.role == "output"]
        self._results = [(p, start) for p, start in placed if p.role in ("output", "mutates")]
        self._failed: dict[int, int] = {}
        self._raised: BaseException | None = None
        self._kernels = Kernels(self._driver, module)
        callbacks = self._on_assertion, partial(setattr, self, "_raised")
        self._code = MachineCode(without_kernels(module), HOST_LEVEL, *callbacks)
        self._kernels.bind(self._code.entry(BIND))
        self.threads = self._most_threads if threads is None else threads
        self._entry = self._code.entry("main")
        self._constants = upload_constants(self._driver, module)
        self._is_worth_a_graph = is_worth(module, self._layout)
        self._lock = threading.Lock()
        self._resident: dict[str, DeviceMemory] = {}
        self._device_frames: dict[int | None, list[DeviceFrame]] = {}
        self.prepare()

    def prepare(self) -> None:
        """Copy the parameters to the device, and compute what depends on them alone."""
        self._driver.enter()
        ports = [*self._layout.ports, *self._prepare_layout.ports]
        held = dict(self._constants)
        for port in ports:
            if port.role == "parameter" and port.name not in held:
                held[port.name] = upload(self._driver, _on_host(self.parameters[port.name]))
        self._driver.wait()  # frames have streams of their own, which do not
        prepared = [p for p in self._prepare_layout.ports if p.role == "prepared"]
        for port in prepared:
            if not port.returned:
                held[port.name] = DeviceMemory(self._driver, port.nbytes)
        if prepared:
            frame = DeviceFrame(self._driver, self._prepare_layout, held)
            self._launch(self._code.entry("prepare"), frame)
            self._check(frame, wait=True)
            held |= frame.allocated()
        self._resident, self._device_frames = held, {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises ``ExecutionError`` for arguments that do not fit.

        Arrays of the host are copied, and the results are back when the call returns. With
        arrays on the device, of PyTorch or others that know DLPack, nothing is copied, results
        stay there, and all is asked of the caller's stream: the call does not wait for them.
        """
        arrays = self._flatten(args, kwargs)
        if len(arrays) != len(self.inputs):
            expected = "; ".join(map(str, self.inputs))
            raise ExecutionError(
                f"expected {len(self.inputs)} inputs ({expected}), got {len(arrays)}"
            )
        self._driver.enter()
        given = [array for array in arrays if is_on_device(array)]
        stream = stream_of(given[0]) if given else None
        # This call's: ``prepare`` makes new ones. Calls on other streams need other memory.
        frames = self._device_frames.setdefault(stream, [])
        try:
            frame = frames.pop()
        except IndexError:
            frame = DeviceFrame(self._driver, self._layout, self._resident, stream)
        try:
            frame.place_inputs(arrays)
            frame.place_outputs(on_device=bool(given))
            self._ask(frame, is_alike=not given)
            values = frame.results_on_device(self._order) if given else frame.results()
            self._check(frame, wait=not given)
        finally:
            frames.append(frame)
        return self._unflatten(self._sort(values, arrays))

    def _ask(self, frame: DeviceFrame, *, is_alike: bool) -> None:
        """Launch; if calls with this frame are all alike, as a graph from the second one on."""
        if is_alike and self._is_worth_a_graph and frame.was_used:
            if frame.graph is None:
                launch = partial(self._launch, self._entry, frame)
                frame.graph = record(self._driver, launch, frame.stream) or False
            if isinstance(frame.graph, Graph):
                frame.graph.launch(frame.stream)
                return
        self._launch(self._entry, frame)
        frame.was_used = True

    def _launch(self, entry: Callable[[int], None], frame: DeviceFrame) -> None:
        """Run host code, and raise what it could not do."""
        frame.clear_status()
        with self._lock:  # the host code has one stream at a time
            self._kernels.on(frame.stream)
            entry(frame.packed)
            self._kernels.check()
        number = self._failed.pop(threading.get_ident(), None)
        if number is not None:
            raise ExecutionError(f"the model's own check failed: {self._messages[number]}")

    def _check(self, frame: DeviceFrame, *, wait: bool) -> None:
        """Raise if an assertion in a kernel failed, for which the device is waited for."""
        number = frame.status()
        if wait or number is not None:
            self._driver.wait(frame.stream)
        if number is not None and number[0]:
            raise ExecutionError(f"the model's own check failed: {self._messages[number[0] - 1]}")

    def _order(self, stream: int, other: int) -> None:
        """Let what is asked of ``other`` from now on wait for what was asked of ``stream``."""
        if stream != other:
            self._driver.enter()
            event = self._driver.record_event(stream)
            self._driver.wait_for_event(other, event)
            self._driver.destroy_event(event)

    def _sort(self, values: list[tuple[Port, Any]], arrays: list) -> list[Any]:
        """The outputs; what overwrites an input or a parameter is written there."""
        tensors = any(map(is_tensor, arrays)) or (self._tensors and not arrays)
        outputs = []
        for port, value in values:
            if isinstance(value, DeviceArray):
                outputs.append(_as_torch(value) if tensors else value)
                continue
            shown = as_tensor(value, port) if tensors else value
            if port.role == "output":
                outputs.append(shown)
                continue
            overwrite(self._find(port.name, arrays), shown, port)
            if port.name in self._resident:
                where = self._resident[port.name].address
                self._driver.upload(where, address(value), port.nbytes)
                self._driver.wait()
        return outputs

    def _find(self, name: str, arrays: list) -> Any:
        """The array behind the name of a parameter or an input."""
        given = {port.name: array for port, array in zip(self.inputs, arrays, strict=True)}
        return given[name] if name in given else self.parameters[name]

    def assembly(self, kernel: str | None = None) -> str:
        """The PTX of all kernels, or of one."""
        return self._kernels.assembly(kernel)

    def save(self, folder: str | Path) -> None:
        """Write what another machine needs to run the model; see ``mlcflow.gpu.save``."""
        save(self._program, self.parameters, folder)

    def hot_loop(self, kernel: str) -> HotLoop:
        """Not for kernels on a device; raises ``MlcflowError``."""
        raise MlcflowError("hot loops are found in code of processors; see assembly() for PTX")

    def profile(self, *args: Any, seconds: float = 1.0, **kwargs: Any) -> Profile:
        """Not for kernels on a device; raises ``MlcflowError``."""
        raise MlcflowError("kernels on a GPU are not timed yet; NVIDIA's nsys shows them by name")


def _as_torch(value: DeviceArray) -> Any:
    import torch

    return torch.from_dlpack(value)


def _on_host(value: Any) -> Any:
    """A parameter as a contiguous array in host memory."""
    return value.detach().cpu().contiguous() if is_tensor(value) else np.ascontiguousarray(value)
