"""A whole call as one CUDA graph: what a frame launches, recorded by the driver."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from mlcflow.errors import ExecutionError
from mlcflow.gpu.driver import Driver
from mlcflow.mlir import ir, llvm, walk
from mlcflow.runtime.frame import Layout

FEWEST = 2
"""Launches from which on a graph is worth it."""


def is_worth(module: ir.Module, layout: Layout) -> bool:
    """Whether ``@main`` launches several kernels, always the same, on memory that stays."""
    if not all(port.is_static and not port.returned for port in layout.ports):
        return False
    for op in module.body.operations:
        if isinstance(op, llvm.LLVMFuncOp) and op.sym_name.value == "main":
            return sum(isinstance(inner, llvm.CallOp) for inner in walk(op)) >= FEWEST
    return False


class Graph:
    """The launches of one frame, to be asked for at once."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self._handle = driver, handle
        weakref.finalize(self, driver.destroy_graph, handle).atexit = False

    def launch(self, stream: int) -> None:
        """Ask for all of it."""
        self._driver.launch_graph(self._handle, stream)


def record(driver: Driver, launch: Callable[[], None], stream: int) -> Graph | None:
    """What ``launch`` asks of ``stream``; nothing is done yet. ``None`` if it cannot be recorded.

    Host code that reads from the device in between cannot: the driver refuses, and ends the
    recording.
    """
    driver.begin_capture(stream)
    try:
        launch()
    except ExecutionError:
        driver.abandon_capture(stream)
        return None
    return Graph(driver, driver.end_capture(stream))
