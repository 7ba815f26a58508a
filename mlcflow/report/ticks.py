"""Time stamps in compiled code: how long each kernel takes where it is called.

The last module is compiled once more with a stamp of the processor's clock before and after
each call of a kernel in ``@main``. Nothing else changes, so caches hold what they hold in a
normal call. A stamp takes some 10 ns.
"""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlcflow import mlir
from mlcflow.mlir import ir, llvm, walk
from mlcflow.runtime.machine_code import MachineCode

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable

KERNEL = "mlcflow.kernel"
_RECORD = """
llvm.func @mlcflow_ticks() -> i64 attributes {{always_inline}} {{
  %now = llvm.call_intrinsic "{counter}"() : () -> i64
  llvm.return %now : i64
}}
llvm.func @mlcflow_stamp(%address: i64) attributes {{always_inline}} {{
  %place = llvm.inttoptr %address : i64 to !llvm.ptr
  %now = llvm.call @mlcflow_ticks() : () -> i64
  llvm.store %now, %place : i64, !llvm.ptr
  llvm.return
}}
llvm.func @mlcflow_record(%address: i64, %begin: i64) attributes {{always_inline}} {{
  %place = llvm.inttoptr %address : i64 to !llvm.ptr
  %now = llvm.call @mlcflow_ticks() : () -> i64
  %took = llvm.sub %now, %begin : i64
  %before = llvm.load %place : !llvm.ptr -> i64
  %total = llvm.add %before, %took : i64
  llvm.store %total, %place : i64, !llvm.ptr
  llvm.return
}}
"""
_BEGIN, _END, _SITES = 0, 1, 2
"""Words of the buffer: the clock when ``@main`` began and ended, then ticks of each call."""


@dataclass(frozen=True)
class CallTimes:
    """Seconds that ``@main`` spends in each call of a kernel, on average over the fastest calls.

    The fastest quarter of ``runs`` calls: in the others, another program was in the way.
    ``sites``: the kernel and the seconds of each place that calls one, in order. ``main``:
    seconds of all of ``@main``. ``cores``: how many processors the process had meanwhile.
    """

    sites: tuple[tuple[str, float], ...]
    main: float
    runs: int
    cores: float


def time_kernel_calls(
    executable: Executable, call: Callable[[Executable], object], seconds: float
) -> CallTimes:
    """Let ``call`` call a copy of ``executable`` with stamps, for ``seconds``, at least 5 times."""
    last = executable.stages.records[-1].module
    stamped, names, buffer = _with_stamps(last)
    timed = copy.copy(executable)  # shares the parameters, and what was prepared of them
    callbacks = timed._on_assertion, partial(setattr, timed, "_raised")
    timed._code = MachineCode(stamped, executable.pipeline.opt_level, *callbacks)
    timed._code.use_threads(executable.threads)
    timed._entry, timed._frames = timed._code.entry("main"), []
    call(timed)
    rows: list[np.ndarray] = []
    clocks: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    while len(rows) < 5 or time.perf_counter() < begin + seconds:
        buffer[:] = 0
        clocks.append(time.perf_counter())
        call(timed)
        rows.append(buffer.copy())
    cores = (time.process_time() - cpu) / (time.perf_counter() - begin)
    table = np.array(rows)
    # The counter runs at a rate that no system tells: compared with the clock over all calls.
    ticks = (table[-1, _BEGIN] - table[0, _BEGIN]) / (clocks[-1] - clocks[0])
    main = table[:, _END] - table[:, _BEGIN]
    fastest = np.argsort(main, kind="stable")[: max(1, len(rows) // 4)]
    means = table[fastest, _SITES:].mean(axis=0) / ticks
    sites = tuple((name, float(t)) for name, t in zip(names, means, strict=True))
    return CallTimes(sites, float(main[fastest].mean() / ticks), len(rows), cores)


def _with_stamps(module: ir.Module) -> tuple[ir.Module, list[str], np.ndarray]:
    """A copy of the module with stamps, the kernel of each, and the buffer they write to."""
    copied = mlir.clone(module)
    symbols = ir.SymbolTable(copied.operation)
    main = symbols["main"]
    calls = [op for op in walk(main) if isinstance(op, llvm.CallOp) and _is_kernel(op, symbols)]
    buffer = np.zeros(_SITES + len(calls), np.int64)
    with copied.context, ir.Location.unknown():
        for op in mlir.parse(_RECORD.format(counter=_counter()), copied.context).body.operations:
            copied.body.append(op.operation.clone(ip=False))
        start = buffer.ctypes.data
        with ir.InsertionPoint.at_block_begin(main.regions[0].blocks[0]):
            _call("mlcflow_stamp", start)
        for op in walk(main):
            if isinstance(op, llvm.ReturnOp):
                with ir.InsertionPoint(op):
                    _call("mlcflow_stamp", start + buffer.itemsize * _END)
        for number, op in enumerate(calls):
            with ir.InsertionPoint(op):
                begin = _ticks()
            with ir.InsertionPoint.after(op):
                _call("mlcflow_record", start + buffer.itemsize * (_SITES + number), begin)
        copied.operation.verify()
    return copied, [_callee(op) for op in calls], buffer


def _counter() -> str:
    """The counter that a program may read: on ARM, that of cycles is for the system only."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return "llvm.readcyclecounter" if x86 else "llvm.readsteadycounter"


def _is_kernel(op: llvm.CallOp, symbols: ir.SymbolTable) -> bool:
    name = _callee(op)
    return name in symbols and KERNEL in symbols[name].attributes


def _callee(op: llvm.CallOp) -> str:
    attributes = op.attributes
    return ir.FlatSymbolRefAttr(attributes["callee"]).value if "callee" in attributes else ""


def _call(name: str, address: int, *arguments: ir.Value) -> None:
    i64 = ir.IntegerType.get_signless(64)
    place = llvm.mlir_constant(ir.IntegerAttr.get(i64, address))
    _call_op(name, [place, *arguments], [])


def _ticks() -> ir.Value:
    i64 = ir.IntegerType.get_signless(64)
    value: ir.Value = _call_op("mlcflow_ticks", [], [i64]).results[0]
    return value


def _call_op(name: str, arguments: list[ir.Value], results: list[ir.Type]) -> ir.Operation:
    return ir.Operation.create(
        "llvm.call",
        results=results,
        operands=arguments,
        attributes={
            "callee": ir.FlatSymbolRefAttr.get(name),
            "operandSegmentSizes": ir.DenseI32ArrayAttr.get([len(arguments), 0]),
            "op_bundle_sizes": ir.DenseI32ArrayAttr.get([]),
        },
    )
