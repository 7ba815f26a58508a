"""An explanation as text for a terminal."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlcflow.report.timing import duration

if TYPE_CHECKING:
    from mlcflow.report.explain import Explanation, StepReport

WIDTH = 110

_SILENT = frozenset({"arith.constant", "scf.yield", "ub.poison"})


def as_text(explanation: Explanation) -> str:
    """A table of all steps, then each with its loop nest before and after."""
    console = Console(width=WIDTH, color_system=None, highlight=False)
    parts: list[RenderableType] = [Text(title(explanation)), Text(), _table(explanation)]
    for before, after in pairwise(explanation.steps):
        parts += [Text(), _step(before, after)]
    with console.capture() as capture:
        console.print(Group(*parts))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def title(explanation: Explanation) -> str:
    """One line about the kernel."""
    shape = " x ".join("?" if extent < 0 else str(extent) for extent in explanation.loops)
    words = [f"kernel '{explanation.kernel}': {explanation.kind} over {shape} loops"]
    words += [", ".join(explanation.types)]
    if explanation.operations:
        words.append(f"{explanation.operations / 1e6:.4g} MFLOP")
    if explanation.peak:
        words.append(f"FMA peak of one core {explanation.peak:.0f} GFLOP/s")
    return "; ".join(words)


def measures(explanation: Explanation) -> tuple[str, ...]:
    """What there is to say of a program that was timed; nothing if none was."""
    if not any(step.program.seconds for step in explanation.steps):
        return ()
    return ("time", "GFLOP/s", "of peak" if explanation.peak else "GB/s")


def measured(explanation: Explanation, step: StepReport) -> tuple[str, ...]:
    """The :func:`measures` of a step."""
    if not measures(explanation):
        return ()
    gflops, part = explanation.gflops(step) or 0.0, explanation.of_peak(step) or 0.0
    last = f"{part:.1%}" if explanation.peak else f"{explanation.gigabytes(step) or 0.0:.3g}"
    return duration(step.program.seconds or 0.0), f"{gflops:.3g}", last


def changes(step: StepReport) -> str:
    """``scf.for 1 -> 3, linalg.fill 1 -> 0``, without operations that say nothing."""
    shown = {name: pair for name, pair in step.changed.items() if name not in _SILENT}
    return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in shown.items())


def _table(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("step", overflow="fold", ratio=1)
    for name in measures(explanation):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hot loop", overflow="fold", ratio=1)
    for step in explanation.steps:
        what = step.python or "(as written)"
        loop = str(step.program.hot_loop or step.program.note)
        table.add_row(str(step.number), what, *measured(explanation, step), loop)
    return table


def _step(before: StepReport, after: StepReport) -> RenderableType:
    nests = Table(box=None, pad_edge=False, expand=True)
    nests.add_column("before", overflow="fold", ratio=1)
    nests.add_column("after", overflow="fold", ratio=1)
    nests.add_row("\n".join(before.program.nest), "\n".join(after.program.nest))
    lines = [f"matched: {line}" for line in after.matched]
    lines.append(f"operations: {changes(after) or 'the same in number'}")
    if before.program.text == after.program.text:
        lines.append("the program is the same")
        body: RenderableType = Text("\n".join(lines))
    else:
        body = Group(Text("\n".join(lines)), nests)
    return Group(Text(f"step {after.number}: {after.python}"), Padding(body, (0, 0, 0, 2)))
