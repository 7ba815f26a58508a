"""The plots of the page, by matplotlib: SVG whose colours are those of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mlcflow.errors import MlcflowError
from mlcflow.report.timing import duration

try:
    import matplotlib
    from markupsafe import Markup
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path as Curve
except ModuleNotFoundError as missing:
    raise MlcflowError(f"HTML: needs {missing.name}: pip install 'mlcflow[report]'") from missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mlcflow.report.memory import Memory
    from mlcflow.report.page import StepSize
    from mlcflow.report.page_graph import Call
    from mlcflow.report.profile import KernelProfile, Profile

# Colours that nothing else has stand for those of the style sheet.
TEXT, QUIET, LINE, GROUND = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{number:02x}" for number in range(6))
_VARIABLES = {TEXT: "text", QUIET: "quiet", LINE: "line", GROUND: "ground"} | {
    colour: f"s{number}" for number, colour in enumerate(SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": TEXT,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": LINE,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "grid.color": LINE,
    "legend.frameon": False,
}
ROW = 0.23
"""Inches of a call in the picture of the graph."""


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure for a page that holds others: colours as variables, identifiers its own."""
    stream = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    known = set(re.findall(r'\bid="([^"]+)"', text))
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(
        r'(href="|url\()#([^")]+)',
        lambda m: f"{m[1]}#{name}-{m[2]}" if m[2] in known else m[0],
        text,
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = Markup.escape(title)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # noqa: S704


def timeline(steps: Sequence[StepSize]) -> Markup:
    """The stages along the time they took, and below the operations that each step left."""
    ends = list(accumulate(step.seconds for step in steps))
    total = ends[-1] if ends else 0.0
    with _figure(11, 2.9) as figure:
        bars, counts = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.6])
        begin, number = 0.0, 0
        names = list(dict.fromkeys(step.stage for step in steps))
        for number, name in enumerate(names):
            width = sum(step.seconds for step in steps if step.stage == name)
            bars.barh(0, width, left=begin, color=SERIES[number % 2 * 5], height=0.8,
                      edgecolor=GROUND, url=f"#stage-{name}")  # fmt: skip
            if width > total * 0.045:
                bars.text(begin + width / 2, 0.52, f"{name}\n{duration(width)}",
                          ha="center", va="bottom")  # fmt: skip
            begin += width
        bars.set_axis_off()
        bars.set_ylim(-0.45, 1.6)
        known = [(end, step.operations) for end, step in zip(ends, steps, strict=True)
                 if step.operations is not None]  # fmt: skip
        x = [0.0, *(end for end, _ in known)]
        y = [known[0][1] if known else 0, *(count for _, count in known)]
        counts.step(x, y, where="pre", color=SERIES[0])
        counts.fill_between(x, y, step="pre", color=SERIES[0], alpha=0.18, linewidth=0)
        counts.set_ylabel("operations")
        counts.set_xlabel("seconds")
        counts.set_ylim(bottom=0)
        counts.set_xlim(0, total or 1)
        counts.grid(axis="y", linewidth=0.5)
        return _svg(figure, "timeline", "time of the stages, and operations after each step")


def graph(calls: Sequence[Call], rows: dict[str, KernelProfile], colours: dict[str, str]) -> Markup:
    """Every call, one below the other, as they run; a circle is as large as its time.

    Arcs lead from a call to those that read its results.
    """
    times = [_each(rows.get(call.kernel)) for call in calls]
    longest = max(times, default=0.0) or 1.0
    with _figure(9.2, 0.5 + ROW * max(4, len(calls))) as figure:
        axes = figure.add_subplot()
        for call in calls:
            for source in call.after:
                _arc(axes, source, call.number)
        for call, took in zip(calls, times, strict=True):
            row = rows.get(call.kernel)
            colour = colours.get(row.rule if row else "", QUIET)
            size = 10 + 260 * took / longest
            axes.scatter(0, call.number, s=size, color=colour, zorder=3, linewidths=0.8,
                         edgecolors=GROUND, urls=[f"#kernel-{call.kernel}"])  # fmt: skip
            words = [call.kernel, *(f"from {name}" for name in call.reads), *call.gives]
            axes.text(0.9, call.number, "   ".join(words), va="center",
                      url=f"#kernel-{call.kernel}")  # fmt: skip
            axes.text(0.75, call.number, duration(took) if took else "", va="center", ha="right",
                      color=QUIET)  # fmt: skip
        axes.set_xlim(-2.2, 5.2)
        axes.set_ylim(max(3, len(calls)) - 0.4, -0.6)
        axes.set_axis_off()
        return _svg(figure, "graph", "graph of the calls of kernels")


def _each(row: KernelProfile | None) -> float:
    return row.seconds / row.calls if row and row.calls else 0.0


def _arc(axes: Axes, source: int, target: int) -> None:
    far = -min(2.1, 0.12 * (target - source) ** 0.75) if target - source > 1 else 0.0
    points = [(0, source), (far, source), (far, target), (0, target)]
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    axes.add_patch(PathPatch(Curve(points, codes), fill=False, edgecolor=QUIET, linewidth=0.8,
                             alpha=0.75))  # fmt: skip


def roofline(profile: Profile, colours: dict[str, str]) -> Markup:
    """GFLOP/s over FLOP a byte, below what the machine can do; numbers are those of the table."""
    shown = [(n, row) for n, row in enumerate(profile.kernels, 1) if row.flops and row.bytes]
    ceiling = profile.ceiling
    x = [row.flops / row.bytes for _, row in shown] or [1.0]
    low, high = min(0.05, *x) / 2, max(200.0, *x) * 2
    with _figure(9.2, 4.6) as figure:
        axes = figure.add_subplot()
        names = ["second cache", "last cache", "memory"][-len(ceiling.bandwidth) :]
        for n, (name, (_, rate)) in enumerate(zip(names, ceiling.bandwidth, strict=False)):
            knee = ceiling.fma / rate
            axes.plot([low, knee], [low * rate, ceiling.fma], color=QUIET, linewidth=1)
            x_text = low * (12 if n == 0 else 1.5 * 3.0**n)
            align = ("right", "bottom") if n == 0 else ("left", "top")
            axes.text(x_text, x_text * rate, f"  {name}, {rate:.0f} GB/s  ", color=QUIET,
                      fontsize=8, ha=align[0], va=align[1])  # fmt: skip
        knee = min(ceiling.fma / rate for _, rate in ceiling.bandwidth)
        axes.plot([knee, high], [ceiling.fma] * 2, color=QUIET, linewidth=1)
        axes.text(high, ceiling.fma * 1.1, f"multiply-adds, {ceiling.fma:.0f} GFLOP/s",
                  ha="right", color=QUIET, fontsize=8)  # fmt: skip
        for number, row in shown:
            at = (row.flops / row.bytes, row.gflops)
            axes.scatter(*at, s=25 + 500 * row.share, color=colours.get(row.rule, QUIET),
                         alpha=0.85, edgecolors=GROUND, zorder=3,
                         urls=[f"#kernel-{row.name}"])  # fmt: skip
            if number <= 12:
                axes.annotate(
                    str(number),
                    at,
                    textcoords="offset points",
                    xytext=(3 + math.sqrt(25 + 500 * row.share) / 2, 2),
                )
        axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="FLOP a byte",
                 ylabel="GFLOP/s")  # fmt: skip
        axes.set_ylim(top=ceiling.fma * 2.5)
        axes.grid(which="major", linewidth=0.5)
        return _svg(figure, "roofline", "roofline of the kernels")


def memory_plan(memory: Memory) -> Markup:
    """Each buffer of the arena: where it lies, and from which step to which it is alive."""
    top = max([memory.arena, *(b.offset + b.bytes for b in memory.buffers)])
    scale, unit = (2**20, "MiB") if top >= 2**20 else (2**10, "KiB")
    last = max([len(memory.steps), *(b.last + 1 for b in memory.buffers)])
    kinds = {"value": SERIES[0], "in place": SERIES[2], "scratch": SERIES[1]}
    with _figure(11, 4) as figure:
        axes = figure.add_subplot()
        for buffer in memory.buffers:
            kind = "scratch" if buffer.scratch else "in place" if buffer.in_place else "value"
            place = (buffer.first, buffer.offset / scale)
            size = (buffer.last + 1 - buffer.first, buffer.bytes / scale)
            axes.add_patch(Rectangle(place, *size, facecolor=kinds[kind], edgecolor=GROUND,
                                     linewidth=0.6, alpha=0.8))  # fmt: skip
        axes.axhline(memory.lower_bound / scale, color=TEXT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(last, memory.lower_bound / scale, "alive at once at most", ha="right",
                  va="bottom", fontsize=8)  # fmt: skip
        axes.set(xlim=(0, last), ylim=(0, top / scale * 1.08))
        axes.set(xlabel="step of @main", ylabel=f"offset in the arena, {unit}")  # fmt: skip
        handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in kinds.values()]
        axes.legend(handles, kinds, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        return _svg(figure, "memory", "the memory plan: offsets by lifetime")


def rule_colours(profile: Profile | None) -> dict[str, str]:
    """A colour for each schedule rule, the one with most time first."""
    names = dict.fromkeys(row.rule for row in profile.kernels) if profile else {}
    return {name: SERIES[min(number, len(SERIES) - 1)] for number, name in enumerate(names)}


def decades(part: float) -> float:
    """How far ``part`` of a bound is along a bar of six powers of ten, in percent."""
    return 100.0 * min(1.0, max(0.0, 1 + math.log10(part) / 6)) if part > 0 else 0.0


def as_variable(colour: str) -> str:
    """The style sheet's name of a colour of a plot."""
    return f"var(--{_VARIABLES.get(colour, 'quiet')})"
