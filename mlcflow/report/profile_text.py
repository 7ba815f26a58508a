"""A profile as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mlcflow.report.timing import duration

if TYPE_CHECKING:
    from mlcflow.report.profile import KernelProfile, Profile

WIDTH = 130
SHOWN = 0.01
RIGHT = ("calls", "time", "share", "FLOP", "bytes", "GFLOP/s", "GB/s", "roofline")


def as_text(profile: Profile) -> str:
    """The profile as plain text."""
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(renderable(profile))
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def renderable(profile: Profile) -> Group:
    """A table of the kernels, what surrounds them, and why some are slow."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("kernel", overflow="fold")
    table.add_column("rule")
    for name in RIGHT:
        table.add_column(name, justify="right", no_wrap=True)
    for row in profile.kernels:
        table.add_row(*_cells(row))
    table.add_row("between kernels", "", "", duration(profile.between),
                  f"{profile.between / profile.main:.1%}")  # fmt: skip
    return Group(_head(profile), Text(), table, *_reasons(profile))


def _head(profile: Profile) -> Text:
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    *caches, memory = (f"{rate:.0f}" for _, rate in profile.ceiling.bandwidth)
    return Text(
        f"a call takes {duration(profile.seconds)}; {threads} on {profile.cores:.1f} cores\n"
        f"compiled code, the fastest quarter of {profile.runs} calls: {duration(profile.main)}\n"
        f"the machine: FMA {profile.ceiling.fma:.0f} GFLOP/s; {' and '.join(caches)} GB/s from "
        f"the caches, {memory} GB/s from memory"
    )


def _cells(row: KernelProfile) -> list[str]:
    roofline = "" if row.of_roofline is None else f"{row.of_roofline:.0%}"
    return [
        row.name,
        row.rule,
        str(row.calls),
        duration(row.seconds),
        f"{row.share:.1%}",
        scaled(row.flops, 1000, ("", " k", " M", " G", " T")) if row.flops else "",
        scaled(row.bytes, 1024, (" B", " KiB", " MiB", " GiB")) if row.bytes else "",
        f"{row.gflops:.1f}" if row.flops else "",
        f"{row.gigabytes:.1f}" if row.bytes else "",
        roofline,
    ]


def scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    """Three digits and a unit: ``2.15 G``."""
    number, unit = value, units[0]
    for unit in units:
        if number < 999.5 or unit == units[-1]:
            break
        number /= step
    digits = str(value) if unit == units[0] else f"{number:#.3g}".rstrip(".")
    return f"{digits}{unit}"


def _reasons(profile: Profile) -> list[Text]:
    """What could be changed, and the kernels that it would help, with the reason for each.

    Kernels that take less than a hundredth of the time are left out.
    """
    by_knob: dict[str, list[str]] = {}
    for row in profile.kernels:
        for words, knob in row.why if row.share >= SHOWN else ():
            by_knob.setdefault(knob, []).append(f"  {row.name}: {words}")
    return [Text("\n".join(["", f"try: {knob}", *lines])) for knob, lines in by_knob.items()]
