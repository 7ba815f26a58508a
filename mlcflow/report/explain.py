"""What each step of a schedule matched, changed and brought."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcflow.atomic import write_whole
from mlcflow.graph.kernel import read_kernel
from mlcflow.mlir import func, ir
from mlcflow.report.assembly import HotLoop
from mlcflow.report.replay import Program, find_function, original, replay_steps
from mlcflow.schedule.program import operations
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

_LARGE = 16
"""Elements of a constant from which on it is elided."""


@dataclass(frozen=True)
class StepReport:
    """One step: its Python, what it matched, and the program that it left.

    ``changed`` are the operations whose number changed, as (before, after). Number 0 is the
    kernel as it was before the first primitive.
    """

    number: int
    python: str
    matched: tuple[str, ...]
    changed: Mapping[str, tuple[int, int]]
    program: Program


@dataclass(frozen=True)
class Explanation:
    """How a schedule made a kernel what it is: ``str()``, ``to_json()``, ``to_html()``.

    ``operations``: floating-point operations of one call, ``bytes``: what it must read and
    write, 0 where unknown. ``peak``: GFLOP/s that one core reaches with nothing but fused
    multiply-adds; ``None`` if not measured, if there is no such number for the type, or if the
    kernel is none that multiplies and adds. ``graph``: the ``@main`` that calls the kernel.
    """

    kernel: str
    kind: str
    loops: tuple[int, ...]
    types: tuple[str, ...]
    operations: int
    bytes: int
    peak: float | None
    graph: str
    steps: tuple[StepReport, ...]

    def gflops(self, step: StepReport) -> float | None:
        """GFLOP/s after ``step``, if it was measured."""
        if not step.program.seconds or not self.operations:
            return None
        return self.operations / step.program.seconds / 1e9

    def of_peak(self, step: StepReport) -> float | None:
        """What part of the peak of one core that is, 0 to 1."""
        gflops = self.gflops(step)
        return gflops / self.peak if gflops is not None and self.peak else None

    def gigabytes(self, step: StepReport) -> float | None:
        """GB/s after ``step``, caches included, if it was measured."""
        return self.bytes / step.program.seconds / 1e9 if step.program.seconds else None

    def __str__(self) -> str:
        from mlcflow.report.explain_text import as_text

        return as_text(self)

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(as_data(self), indent=2)

    def to_html(self) -> str:
        """One page that needs no other file. Needs ``mlcflow[report]``."""
        from mlcflow.report.explain_html import as_html

        return as_html(self)

    def write_html(self, path: str | Path) -> Path:
        """Write the page, at once or not at all; makes the directory."""
        path = Path(path)
        page = self.to_html()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
        return path


def explain(
    schedule: Schedule, *, measure: bool = False, target: Target | None = None
) -> Explanation:
    """Apply the trace of ``schedule`` step by step to a copy of the kernel, and look at each.

    Every program is compiled for its instructions; ``measure`` also runs each, checks that it
    computes the same values, and times it. Raises ``ScheduleError`` if ``measure`` is asked of
    a kernel whose shapes are not known, ``VerificationError`` if the values differ.
    """
    from mlcflow.report.peak import fma_peak

    target = target or Target.host()
    replayed = replay_steps(schedule, measure=measure, target=target)
    module = original(schedule, must_run=False)
    kernel = read_kernel(find_function(module, schedule.kernel.name))
    assert kernel is not None  # there was one when the schedule was made
    floats = kernel.element_types & {"f32", "f64"}
    has_peak = floats and kernel.kind in ("contraction", "convolution")
    peak = fma_peak(max(floats), target) if measure and has_peak else None
    steps: list[StepReport] = []
    for number, (python, matched, program) in enumerate(replayed):
        before = steps[-1].program.operations if steps else {}
        changed = _changed(before, program.operations) if steps else {}
        steps.append(StepReport(number, python, matched, changed, program))
    return Explanation(
        kernel=schedule.kernel.name,
        kind=kernel.kind,
        loops=kernel.loops,
        types=tuple(sorted(kernel.element_types)),
        operations=operations(kernel),
        bytes=_bytes(kernel.function),
        peak=peak,
        graph=_graph(schedule),
        steps=tuple(steps),
    )


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    names = sorted({*before, *after})
    pairs = {name: (before.get(name, 0), after.get(name, 0)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _bytes(function: func.FuncOp) -> int:
    """Bytes of the arguments and results; a kernel's results are arguments."""
    is_kernel = "mlcflow.kernel" in function.attributes
    kinds = [*function.type.inputs, *([] if is_kernel else function.type.results)]
    total = 0
    for kind in kinds:
        shaped = ir.ShapedType(kind) if isinstance(kind, ir.ShapedType) else None
        element = shaped.element_type if shaped else kind
        if shaped and not shaped.has_static_shape:
            return 0
        bits = element.width if isinstance(element, ir.IntegerType | ir.FloatType) else 64
        total += math.prod(shaped.shape if shaped else ()) * max(8, bits) // 8
    return total


def _graph(schedule: Schedule) -> str:
    """``@main`` of the module that the kernel lies in; the kernel as it was if that is it."""
    module = schedule.function.operation.parent
    functions: Sequence[Any] = module.regions[0].blocks[0].operations if module else ()
    for op in functions:
        is_main = isinstance(op, func.FuncOp) and op.name.value == "main"
        if is_main and op != schedule.function:
            return short_text(op)
    return short_text(schedule.original)


def short_text(op: ir.OpView | ir.Operation) -> str:
    """An operation as text without the elements of large constants."""
    return str(op.operation.get_asm(large_elements_limit=_LARGE))


def as_data(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON values."""
    return {
        "kernel": explanation.kernel,
        "kind": explanation.kind,
        "loops": list(explanation.loops),
        "types": list(explanation.types),
        "operations": explanation.operations,
        "bytes": explanation.bytes,
        "peak_gflops": explanation.peak,
        "graph": explanation.graph,
        "steps": [
            {
                "number": step.number,
                "python": step.python,
                "matched": list(step.matched),
                "changed": {name: list(pair) for name, pair in step.changed.items()},
                "seconds": step.program.seconds,
                "gflops": explanation.gflops(step),
                "gigabytes": explanation.gigabytes(step),
                "of_peak": explanation.of_peak(step),
                "loop_nest": list(step.program.nest),
                "tensor_program": step.program.text,
                "calls": dict(step.program.calls),
                "instructions": _loop_as_data(step.program.hot_loop),
                "note": step.program.note,
            }
            for step in explanation.steps
        ],
    }


def _loop_as_data(loop: HotLoop | None) -> dict[str, Any] | None:
    if loop is None:
        return None
    return {
        "function": loop.function,
        "is_loop": loop.is_loop,
        "fmas": {str(bits): count for bits, count in loop.fmas.items()},
        "arithmetic": {str(bits): count for bits, count in loop.arithmetic.items()},
        "loads": loop.loads,
        "stores": loop.stores,
        "spills": loop.spills,
        "calls": list(loop.calls),
        "text": loop.text,
    }
