"""From the source of a Python function to a program, with all its problems at once."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from mlcflow import language
from mlcflow.errors import ImportModelError
from mlcflow.frontends.tensor_program.check import check_program
from mlcflow.frontends.tensor_program.expressions import evaluate
from mlcflow.frontends.tensor_program.scope import Scope, Value
from mlcflow.frontends.tensor_program.source import Problem, Source, parse_text, render, source_of
from mlcflow.frontends.tensor_program.statements import argument, read_body
from mlcflow.frontends.tensor_program.tree import Program


def parse_function(
    function: Callable[..., Any], locals_: Mapping[str, Any]
) -> tuple[Program, Source]:
    """Read a Python function; ``locals_`` are the names of the place that defines it.

    Raises ``ImportModelError`` with every problem, its file and line.
    """
    source = source_of(function)
    module = getattr(function, "__globals__", {})
    environment = {**module, **locals_, **_closure(function)}
    return parse(source, environment, _evaluated(function)), source


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of enclosing functions that the body uses and that have a value."""
    found = {}
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # bound after the definition
            continue
    return found


def parse_source(text: str, file: str) -> tuple[Program, Source]:
    """Read the only function of a Python text, whose imports may name the language alone.

    Nothing of the text is executed. Raises ``ImportModelError``.
    """
    module, source = parse_text(text, file)
    environment: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            environment |= _imported(node, file)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [name.id for name in node.targets if isinstance(name, ast.Name)]
            environment |= dict.fromkeys(names, node.value.value)
    return parse(source, environment, {}), source


def _imported(node: ast.Import | ast.ImportFrom, file: str) -> dict[str, Any]:
    """What an import of the language gives; nothing else is imported."""
    import mlcflow

    home = node.module if isinstance(node, ast.ImportFrom) else None
    found: dict[str, Any] = {}
    for alias in node.names:
        name = alias.asname or alias.name
        if home is None and alias.name == "mlcflow":
            found[name] = mlcflow
        elif home == "mlcflow" and alias.name == "language":
            found[name] = language
        elif home in ("mlcflow", "mlcflow.language") and hasattr(language, alias.name):
            found[name] = getattr(language, alias.name)
        elif home != "__future__" and (home, alias.name) != ("mlcflow", "tensor_function"):
            text = ast.unparse(node)
            raise ImportModelError(f"{file}:{node.lineno}: expected imports of mlcflow, got {text}")
    return found


def _evaluated(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that Python has evaluated already (they may use any expression)."""
    try:
        annotations = getattr(function, "__annotations__", {})
    except Exception:  # evaluated only now, from Python 3.14 on; the source says what is wrong
        return {}
    return {name: value for name, value in annotations.items() if not isinstance(value, str)}


def parse(source: Source, environment: Mapping[str, Any], types: Mapping[str, Value]) -> Program:
    """The program of a function. ``types`` are those of its arguments that are known."""
    tree = source.tree
    scope = Scope(environment)
    _read_arguments(scope, tree, types)
    read_body(scope, tree.body)
    if not scope.results and not scope.problems:
        scope.report(tree, "expected 'return' with the buffers that are the results")
    return finish(scope, source)


def finish(scope: Scope, source: Source) -> Program:
    """The program that was read into ``scope``, checked. Raises ``ImportModelError``."""
    tree = source.tree
    program = Program(
        tree.name,
        scope.arguments,
        scope.buffers,
        tuple(scope.statements),
        scope.results,
        source.file,
    )
    problems = scope.problems
    if not problems:
        last = tree.body[-1]
        problems = [
            p if p.line else Problem(last.lineno, last.col_offset, p.message)
            for p in check_program(program)
        ]
    if problems:
        raise ImportModelError(render(source, problems))
    return program


def _read_arguments(scope: Scope, tree: ast.FunctionDef, types: Mapping[str, Value]) -> None:
    signature = tree.args
    extra = [a for a in (signature.vararg, signature.kwarg, *signature.kwonlyargs) if a is not None]
    for node in extra:
        scope.report(node, f"argument '{node.arg}': expected positional arguments only")
    for default in signature.defaults:
        scope.report(default, "an argument has no default value here")
    for node in [*signature.posonlyargs, *signature.args]:
        if node.annotation is None or node.arg in types:
            argument(scope, node, types.get(node.arg))
            continue
        argument(scope, node, evaluate(scope, _unquoted(node.annotation)))


def _unquoted(annotation: ast.expr) -> ast.expr:
    """The expression of an annotation that is written as a text."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            expression = ast.parse(annotation.value.strip(), mode="eval").body
        except SyntaxError:
            return annotation
        for inner in ast.walk(expression):
            ast.copy_location(inner, annotation)
        return expression
    return annotation
