"""The source of a function, and the problems found in it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlcflow.errors import ImportModelError


@dataclass(frozen=True)
class Source:
    """One function: its syntax tree, whose lines and columns are those of ``file``.

    ``text`` is the source as written, from line ``first_line`` on, without the indentation that
    it has as a whole.
    """

    tree: ast.FunctionDef
    text: str
    file: str
    first_line: int = 1


@dataclass(frozen=True)
class Problem:
    """What is wrong with the expression or statement that starts at ``line`` and ``column``."""

    line: int
    column: int
    message: str


def source_of(function: Callable[..., Any]) -> Source:
    """Read the source of a Python function. Raises ``ImportModelError`` when there is none."""
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ImportModelError(
            f"{function!r}: its source cannot be read ({error}); a tensor function must be "
            "written in a file, or given as text to from_python"
        ) from error
    raw = "".join(lines)
    text = textwrap.dedent(raw)
    tree = ast.parse(text).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise ImportModelError(f"{function!r}: expected a function made with 'def'")
    margin = len(lines[0]) - len(lines[0].lstrip())
    for node in ast.walk(tree):
        if hasattr(node, "col_offset"):
            node.col_offset += margin
    ast.increment_lineno(tree, first - 1)
    return Source(tree, text, inspect.getsourcefile(function) or "<unknown>", first)


def parse_text(text: str, file: str) -> tuple[ast.Module, Source]:
    """The tree of a Python file and its only function. Raises ``ImportModelError``."""
    try:
        module = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        raise ImportModelError(f"{file}:{error.lineno}: {error.msg}") from error
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        raise ImportModelError(f"{file}: expected one function, found {len(functions)}")
    return module, Source(functions[0], text, file)


def parse_line(text: str) -> tuple[Source, ast.Assign | ast.AugAssign]:
    """The only statement of a text, an assignment. Raises ``ImportModelError``."""
    try:
        body = ast.parse(text.strip()).body
    except SyntaxError as error:
        raise ImportModelError(f"'{text}': {error.msg}") from error
    if len(body) != 1 or not isinstance(body[0], ast.Assign | ast.AugAssign):
        raise ImportModelError(f"'{text}': expected one assignment, such as C[i] += A[i, k]")
    tree = ast.FunctionDef("einsum", ast.arguments([], [], None, [], [], None, []), body, [])
    tree.lineno = tree.end_lineno = 1
    tree.col_offset = 0
    return Source(tree, text.strip(), "<einsum>"), body[0]


def render(source: Source, problems: list[Problem]) -> str:
    """All problems, each with its file, line and the line's text, marked where it starts."""
    lines = source.text.splitlines()
    counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    parts = [f"tensor function '{source.tree.name}': {counted}"]
    for problem in sorted(problems, key=lambda p: (p.line, p.column)):
        parts.append(f"  {source.file}:{problem.line}: {problem.message}")
        number = problem.line - source.first_line
        if 0 <= number < len(lines):
            shown = lines[number].strip()
            margin = source.tree.col_offset + len(lines[number]) - len(lines[number].lstrip())
            parts += [f"      {shown}", "      " + " " * max(0, problem.column - margin) + "^"]
    return "\n".join(parts)
