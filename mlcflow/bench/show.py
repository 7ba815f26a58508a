"""Results of benchmarks as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlcflow.bench.marks import Verdict
from mlcflow.bench.result import Peaks, Result
from mlcflow.bench.sides import OURS
from mlcflow.bench.workloads import WORKLOADS
from mlcflow.report.timing import duration

STYLES = {True: "green", False: "red", None: "dim"}
WORDS = {True: "yes", False: "no", None: "?"}


def show_result(result: Result, peaks: Peaks, verdicts: Sequence[Verdict], to: Console) -> None:
    """One workload: a row a side, then why others are missing, then its mark."""
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    about = WORKLOADS[result.model].about if result.model in WORKLOADS else ""
    to.print(Text(f"{result.model}{', ' + about if about else ''}: {threads}", style="bold"))
    to.print(_sides(result, peaks))
    for name, reason in result.failures.items():
        to.print(Text(f"{name}: {reason}"), soft_wrap=True)
    for verdict in verdicts:
        style, word = STYLES[verdict.met], WORDS[verdict.met]
        to.print(Text(f"mark: {verdict.demand}: {verdict.found}: {word}", style=style))


def _sides(result: Result, peaks: Peaks) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("side")
    columns = ["median", "least", "x ours"]
    columns += ["GFLOP/s", "of FMA"] if result.work["flops"] else []
    columns += ["GB/s", "of memory", "cores", "compile", "memory"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in sorted(result.sides.items(), key=lambda item: item[1].median):
        ratio, gflops, gigabytes = result.ratio(name), result.gflops(name), result.gigabytes(name)
        cells = [duration(side.median), duration(side.least)]
        cells.append("" if ratio is None else f"{ratio:.2f}")
        if result.work["flops"]:
            cells += [f"{gflops:.1f}", f"{gflops / peaks.fma:.0%}"]
        cells += [f"{gigabytes:.1f}", f"{gigabytes / peaks.memory.best:.0%}"]
        cells += [f"{side.cores:.1f}", duration(side.compile_seconds)]
        cells.append(f"{side.run_bytes / (1 << 20):.0f} MiB")
        table.add_row(f"{name} {side.version}", *cells, style="bold" if name == OURS else "")
    return table


def show_suite(rows: Sequence[tuple[Result, Sequence[Verdict]]], to: Console) -> None:
    """All workloads: our time, the best peer's, and every demand of the marks."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, justify in (("workload", "left"), ("threads", "right"), ("ours", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("fastest peer", "mark", "found", "met"):
        table.add_column(name)
    for result, verdicts in rows:
        ours = result.sides.get(OURS)
        peers = {name: side.median for name, side in result.sides.items() if name != OURS}
        best = min(peers, key=lambda name: peers[name], default="")
        first = [
            result.model,
            str(result.threads),
            duration(ours.median) if ours else "none",
            f"{duration(peers[best])} {best}" if best else "none",
        ]
        for verdict in verdicts:
            word = Text(WORDS[verdict.met], style=STYLES[verdict.met])
            table.add_row(*first, verdict.demand, verdict.found, word)
            first = [""] * len(first)
    to.print(table)


def show_workloads(to: Console) -> None:
    """The names that ``mlcflow bench`` knows."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("workload", "what it is", "threads"):
        table.add_column(name)
    for name, workload in WORKLOADS.items():
        table.add_row(name, workload.about, str(workload.threads))
    to.print(table)


def show_peaks(peaks: Peaks, to: Console) -> None:
    """What the machine can do at most."""
    memory = peaks.memory
    to.print(
        f"machine: {peaks.threads} thread{'s' if peaks.threads > 1 else ''}: FMA {peaks.fma:.0f} "
        f"GFLOP/s; memory {memory.read:.0f} GB/s reading, {memory.copy:.0f} copying, "
        f"{memory.triad:.0f} triad",
        highlight=False,
    )
