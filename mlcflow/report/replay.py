"""The programs that a schedule went through, each compiled and, if asked, timed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlcflow.check.compare import compare
from mlcflow.errors import MlcflowError, ScheduleError
from mlcflow.graph.kernel import read_kernel
from mlcflow.graph.library_calls import declare_called
from mlcflow.mlir import func, ir, llvm, walk
from mlcflow.report.assembly import Function, HotLoop, disassemble, hot_loop
from mlcflow.report.nest import count_operations, describe_block, nest
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.machine_code import compile_object
from mlcflow.schedule.program import isolate, load_program, measure, random_inputs
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay
from mlcflow.target import Target


@dataclass(frozen=True)
class Program:
    """The kernel after a step, at each level.

    ``text``: the tensor program; ``nest``: its loops, indented; ``operations``: how many of
    each kind. ``calls``: external functions, and at how many places the code calls them.
    ``hot_loop``: instructions. ``seconds`` a call, if measured. ``note`` says what is missing.
    """

    text: str
    nest: tuple[str, ...]
    operations: Mapping[str, int]
    calls: Mapping[str, int]
    hot_loop: HotLoop | None = None
    seconds: float | None = None
    note: str = ""


SLOW = 0.5
"""Seconds of a call from which on one call is measurement enough."""

Replayed = tuple[str, tuple[str, ...], Program]
"""A step as Python, what it matched, the program after it."""


def replay_steps(schedule: Schedule, *, measure: bool, target: Target) -> list[Replayed]:
    """Each program from the kernel as it was to what the schedule made of it."""
    module = original(schedule, must_run=measure)
    function = find_function(module, schedule.kernel.name)
    look = _Looker(module, function, measure, target)
    kernel = read_kernel(function)
    assert kernel is not None  # there was one when the schedule was made
    copy = Schedule(kernel)  # names the blocks
    found: list[Replayed] = [("", (), look())]
    for step, data in zip(schedule.trace, json.loads(schedule.trace.to_json()), strict=True):
        matched = tuple(_matched(copy, step.arguments))
        replay([data], copy)
        found.append((str(step), matched, look()))
    return found


def original(schedule: Schedule, *, must_run: bool) -> ir.Module:
    """A program of the kernel before the first primitive; without ``@main`` if it cannot run.

    Raises ``ScheduleError`` if it must run and cannot.
    """
    function = schedule.original.opview
    try:
        return isolate(replace(schedule.kernel, function=function))
    except ScheduleError:
        if must_run:
            raise
    with function.context, ir.Location.unknown():
        module = ir.Module.create()
        module.body.append(function.operation.clone(ip=False))
        declare_called(module)
    return module


def find_function(module: ir.Module, name: str) -> func.FuncOp:
    """The function of that name, which the module has."""
    return next(
        op for op in module.body.operations if isinstance(op, func.FuncOp) and op.name.value == name
    )


class _Looker:
    """Looks at the program as it is now; at one that has not changed only once."""

    def __init__(
        self, module: ir.Module, function: func.FuncOp, timed: bool, target: Target
    ) -> None:
        self.module, self.function, self.timed, self.target = module, function, timed, target
        self.inputs: list = []
        self.expected: list = []
        self.seen: dict[str, Program] = {}

    def __call__(self) -> Program:
        text = str(self.function)
        if text not in self.seen:
            program = Program(text, nest(self.function), count_operations(self.function), {})
            self.seen[text] = self._compiled(program)
        return self.seen[text]

    def _compiled(self, program: Program) -> Program:
        try:
            executable = load_program(self.module, self.target)
        except MlcflowError as error:
            if self.timed:
                raise
            return replace(program, note=f"not compiled: {str(error).splitlines()[0]}")
        lowered = executable.stages.records[-1].module
        program = replace(program, calls=external_calls(lowered))
        if self.timed:
            program = replace(program, seconds=self._time(executable))
        try:
            functions = disassemble(compile_object(lowered, executable.pipeline.opt_level))
        except MlcflowError as error:
            return replace(program, note=f"no instructions: {error}")
        loop = hot_loop(functions[self.function.name.value])
        return replace(program, hot_loop=loop, calls=_called(functions))

    def _time(self, executable: Executable) -> float:
        """Seconds of a call, once the values are known to be those of the first program."""
        self.inputs = self.inputs or random_inputs(executable)
        begin = time.perf_counter()
        results = executable(*self.inputs)
        seconds = time.perf_counter() - begin
        values = list(results) if isinstance(results, tuple) else [results]
        self.expected = self.expected or values
        compare(values, self.expected)
        # What takes that long needs no warm cache; many calls of a naive program take minutes.
        return seconds if seconds > SLOW else measure(executable, self.inputs)


def external_calls(module: ir.Module) -> dict[str, int]:
    """The functions that an LLVM module declares, and how often its code calls each.

    LLVM may add more: it calls the mathematics library for some of its intrinsics.
    """
    declared = [
        ir.StringAttr(op.attributes["sym_name"]).value
        for op in module.body.operations
        if isinstance(op, llvm.LLVMFuncOp) and not op.body.blocks
    ]
    calls = Counter(
        ir.FlatSymbolRefAttr(op.attributes["callee"]).value
        for op in walk(module.operation)
        if isinstance(op, llvm.CallOp) and "callee" in op.attributes
    )
    return {name: calls[name] for name in sorted(declared) if calls[name]}


def _called(functions: Mapping[str, Function]) -> dict[str, int]:
    """The same, of machine code."""
    calls = Counter(call for function in functions.values() for call in function.calls)
    return {name: calls[name] for name in sorted(calls) if name not in functions}


def _matched(schedule: Schedule, arguments: Mapping[str, Any]) -> Iterator[str]:
    """The blocks and loops that the arguments of a step name, as they are before it."""
    names = [name for value in arguments.values() for name in _names(value)]
    blocks = schedule.blocks()
    found = [name for name in names if name in blocks or name.split(".")[0] in blocks]
    for name in dict.fromkeys(found or blocks):
        if name in blocks:
            yield f"block {describe_block(schedule.block(name))}"
        else:
            yield _describe_loop(schedule, name)


def _names(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _describe_loop(schedule: Schedule, name: str) -> str:
    try:
        loop = schedule.loop(name)
    except ScheduleError:
        return name  # no loop of this schedule: a word that looks like one
    if loop.is_gone:
        return f"loop {loop}: 1 iteration, which needs no loop"
    extent = "?" if loop.extent < 0 else loop.extent
    where = "inside" if loop.op is None else "around"
    return f"loop {loop}: {extent} iterations, {loop.kind}, {where} its block"
