"""An explanation as one HTML page: no script, no other file, no network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlcflow.errors import MlcflowError
from mlcflow.report.explain_text import changes, measured, measures, title

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexer import Lexer, RegexLexer
    from pygments.lexers.asm import NasmLexer
    from pygments.lexers.python import PythonLexer
    from pygments.token import Comment, Keyword, Name, Number, String, Text
except ModuleNotFoundError as missing:
    raise MlcflowError(f"HTML: needs {missing.name}: pip install 'mlcflow[report]'") from missing

if TYPE_CHECKING:
    from mlcflow.report.explain import Explanation, StepReport

TEMPLATE = "explain.html.j2"
CONTEXT = 3
"""Lines around a difference."""


class MlirLexer(RegexLexer):
    """MLIR, as far as colours go; Pygments has no lexer for it."""

    name = "MLIR"
    tokens = {  # noqa: RUF012 (Pygments' own way)
        "root": [
            (r"//[^\n]*", Comment),
            (r'"(?:\\.|[^"\\])*"', String),
            (r"%[\w#.$-]+", Name.Variable),
            (r"[@^][\w.$-]+", Name.Function),
            (r"[!#][\w.]+", Keyword.Type),
            (r"\b(?:tensor|memref|vector)(?=<)|\b(?:index|none|b?f\d+|[su]?i\d+)\b", Keyword.Type),
            (r"(?:(?:\?|\d+)x)+(?:b?f\d+|[su]?i\d+|index)\b", Keyword.Type),  # 4x?xf32
            (r"\b[a-z_]\w*(?:\.[a-z_]\w*)+", Keyword),
            (r"-?\b\d+(?:\.\d+(?:[eE][+-]?\d+)?)?", Number),
            (r"\w+|\s+|.", Text),
        ]
    }


def as_html(explanation: Explanation) -> str:
    """The page as text; see :meth:`Explanation.to_html`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    fastest = max((explanation.gflops(step) or 0 for step in explanation.steps), default=0)
    scale = max(fastest, explanation.peak or 0)
    steps = []
    for step in explanation.steps:
        before = explanation.steps[max(0, step.number - 1)]
        steps.append(_view(explanation, before, step, scale))
    return environment.get_template(TEMPLATE).render(
        kernel=explanation.kernel,
        title=title(explanation),
        graph=_graph(explanation),
        steps=steps,
        measures=measures(explanation),
        end="the peak" if explanation.peak else "the fastest",
    )


def _graph(explanation: Explanation) -> list[tuple[bool, Markup]]:
    """The lines of the graph, each with whether it calls the kernel."""
    plain = explanation.graph.splitlines()
    colours = _colour(explanation.graph, MlirLexer()).split("\n")
    call = f"call @{explanation.kernel}("
    return [
        (call in line, Markup(colour))  # noqa: S704
        for line, colour in zip(plain, colours, strict=True)
    ]


def _view(
    explanation: Explanation, before: StepReport, step: StepReport, scale: float
) -> dict[str, object]:
    """What the template shows of a step."""
    program, loop = step.program, step.program.hot_loop
    bar = 100 * (explanation.gflops(step) or 0) / scale if scale else 0
    return {
        "number": step.number,
        "python": _colour(step.python, PythonLexer()) if step.python else "as written",
        "measured": measured(explanation, step),
        "bar": f"{bar:.1f}",
        "matched": step.matched,
        "changed": changes(step) or "the same in number",
        "same": step.number and before.program.text == program.text,
        "nests": _nests(before.program.nest, program.nest),
        "text": _colour(program.text, MlirLexer()),
        "diff": _diff(before.program.text, program.text),
        "calls": dict(program.calls),
        "loop": str(loop) if loop else "",
        "function": loop.function if loop else "",
        "instructions": _colour(loop.text, NasmLexer()) if loop else "",
        "note": program.note,
    }


def _colour(text: str, lexer: Lexer) -> Markup:
    formatted = highlight(text, lexer, HtmlFormatter(nowrap=True))
    return Markup(formatted.rstrip("\n"))  # noqa: S704 (Pygments escapes what it formats)


def _diff(before: str, after: str) -> list[tuple[str, Markup]]:
    """Lines of the later program with their sign; ``...`` where equal ones are left out.

    Numbers of values are not compared: one more value would change all lines after it.
    """
    old, new = before.splitlines(), after.splitlines()
    colours = [_colour(text, MlirLexer()).split("\n") for text in (before, after)]
    matcher = difflib.SequenceMatcher(None, _unnumbered(old), _unnumbered(new), autojunk=False)
    lines: list[tuple[str, Markup]] = []
    for group in matcher.get_grouped_opcodes(CONTEXT):
        if lines or group[0][3]:
            lines.append(("...", Markup("")))
        for kind, low, high, new_low, new_high in group:
            if kind == "equal":
                lines += [(" ", Markup(line)) for line in colours[1][new_low:new_high]]  # noqa: S704
                continue
            lines += [("-", Markup(line)) for line in colours[0][low:high]]  # noqa: S704
            lines += [("+", Markup(line)) for line in colours[1][new_low:new_high]]  # noqa: S704
    return lines


def _nests(before: Sequence[str], after: Sequence[str]) -> list[list[tuple[bool, str]]]:
    """The lines of two loop nests, each with whether the other lacks it."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    marked: list[list[tuple[bool, str]]] = [[], []]
    for kind, low, high, new_low, new_high in matcher.get_opcodes():
        marked[0] += [(kind != "equal", line) for line in before[low:high]]
        marked[1] += [(kind != "equal", line) for line in after[new_low:new_high]]
    return marked


def _unnumbered(lines: Sequence[str]) -> list[str]:
    return [re.sub(r"%[\w#]+", "%", line) for line in lines]
