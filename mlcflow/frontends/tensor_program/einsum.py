"""One line for one loop nest: ``C[i, j] += A[i, k] * B[k, j]``."""

from __future__ import annotations

import ast
from typing import Any

from mlcflow import language
from mlcflow.errors import ImportModelError
from mlcflow.frontends.tensor_program.expressions import evaluate
from mlcflow.frontends.tensor_program.function import TensorFunction
from mlcflow.frontends.tensor_program.intrinsics import WEAK, kind
from mlcflow.frontends.tensor_program.parse import finish
from mlcflow.frontends.tensor_program.scope import Scope, TensorName
from mlcflow.frontends.tensor_program.source import parse_line
from mlcflow.frontends.tensor_program.statements import read_body
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Constant,
    Loop,
    Size,
    Statement,
    Symbol,
    TensorType,
)
from mlcflow.runtime.dtypes import NUMPY

_Subscripts = dict[str, list[list[ast.expr]]]


def einsum_function(text: str, /, **arguments: Any) -> TensorFunction:
    """The tensor function of one statement, such as ``C[i, j] += A[i, k] * B[k, j]``.

    ``arguments`` are the tensors that it reads, each ``Tensor(shape, dtype)`` or the pair
    ``(shape, dtype)``. Loops are the names in the indices; their extents follow from the shapes
    (``X[i + r]`` runs as far as the tensor goes), the result has the type of what is written.
    What accumulates starts from 0 for ``+=``, from 1 for ``*=``, from minus infinity for
    ``C[i] = max(C[i], ...)``. Functions are those of ``mlcflow.language``.

    Raises ``ImportModelError`` with every problem. Nothing of the text is executed.
    """
    source, node = parse_line(text)
    types = {
        name: given if isinstance(given, TensorType) else language.tensor_type(*given)
        for name, given in arguments.items()
    }
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    scope = Scope({name: getattr(language, name) for name in vars(language)}, dict(types))
    scope.names.update({name: TensorName(name) for name in types})
    if not isinstance(target, ast.Subscript) or not isinstance(target.value, ast.Name):
        raise ImportModelError(f"'{text}': expected an element to be written, such as C[i, j]")
    extents = _extents(text, scope, node, target)
    loops = [Loop(name, extent, "", n) for n, (name, extent) in enumerate(extents.items())]
    result = target.value.id
    shape = tuple(_size(text, scope, item, extents) for item in _items(target))
    scope.buffers[result] = TensorType(shape, _dtype(scope, node, loops, result, shape))
    scope.names[result] = TensorName(result)
    scope.results = (result,)
    with scope.within(loops):
        read_body(scope, [node])
    _add_initial(scope)
    return TensorFunction(finish(scope, source), text)


def _items(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _extents(text: str, scope: Scope, node: ast.stmt, target: ast.Subscript) -> dict[str, Size]:
    """The extent of each index name, those of ``target`` first, from the shapes."""
    names: dict[str, None] = {}
    accesses: list[tuple[Affine, Size]] = []
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Subscript) and n is not target]
    for subscript in [target, *inner]:
        inside = [n for item in _items(subscript) for n in ast.walk(item)]
        found = [n.id for n in inside if isinstance(n, ast.Name)]
        names |= dict.fromkeys(name for name in found if not hasattr(language, name))
    scope.names.update({name: Affine(((name, 1),)) for name in names})
    for subscript in inner:
        owner = subscript.value.id if isinstance(subscript.value, ast.Name) else ""
        if owner in scope.arguments:
            items = _items(subscript)
            indices = [evaluate(scope, item) for item in items]
            accesses += [
                (index, size)
                for index, size in zip(indices, scope.arguments[owner].shape, strict=False)
                if isinstance(index, Affine)
            ]
    for name in names:
        del scope.names[name]
    scope.problems.clear()  # the statement itself is read later, and tells them again
    extents = _solve(accesses)
    missing = [name for name in names if name not in extents]
    if missing:
        raise ImportModelError(
            f"'{text}': the shapes do not say how far {', '.join(missing)} runs: expected it in "
            "an index of an argument"
        )
    return {name: extents[name] for name in names}


def _solve(accesses: list[tuple[Affine, Size]]) -> dict[str, Size]:
    """Extents such that each index just stays within its size."""
    extents: dict[str, Size] = {}
    for index, size in accesses:
        if index.variable is not None:
            extents.setdefault(index.variable, size)
    progress = True
    while progress:
        progress = False
        for index, size in accesses:
            unknown = [(n, c) for n, c in index.terms if n not in extents]
            known = [(extents[n], c) for n, c in index.terms if n in extents]
            if len(unknown) == 1 and unknown[0][1] > 0 and not isinstance(size, Symbol):
                room = size - 1 - index.constant
                room -= sum(c * (int(e) - 1) for e, c in known if not isinstance(e, Symbol))
                extents[unknown[0][0]] = max(1, room // unknown[0][1] + 1)
                progress = True
    return extents


def _size(text: str, scope: Scope, node: ast.expr, extents: dict[str, Size]) -> Size:
    """The size of a dimension of the result that ``node`` indexes."""
    if isinstance(node, ast.Name) and node.id in extents:
        return extents[node.id]
    raise ImportModelError(
        f"'{text}': the result is indexed with '{ast.unparse(node)}', expected a name"
    )


def _dtype(
    scope: Scope, node: ast.stmt, loops: list[Loop], result: str, shape: tuple[Size, ...]
) -> str:
    """The element type of what is written: that of the value, found by trying each."""
    used = [t.dtype for t in scope.arguments.values()] + ["bool", "int64", "float64"]
    for dtype in dict.fromkeys(d for d in used if d not in WEAK):
        trial = Scope(scope.environment, dict(scope.arguments), {result: TensorType(shape, dtype)})
        trial.names.update({**scope.names, result: TensorName(result)})
        with trial.within(loops):
            read_body(trial, [node])
        if not trial.problems:
            return dtype
    return used[0]


def _add_initial(scope: Scope) -> None:
    """Before an accumulation, the value that changes nothing."""
    for statement in list(scope.statements):
        if statement.combine:
            dtype = scope.buffers[statement.target].dtype
            loops = tuple(loop for loop in statement.loops if loop.name in statement.spatial)
            value = Constant(_identity(statement.combine, dtype), dtype)
            initial = Statement(
                loops, statement.target, statement.index, "", value, statement.line, 0
            )
            scope.statements.insert(0, initial)


def _identity(combine: str, dtype: str) -> float:
    """The value that combines with any other to that other."""
    if combine in ("maximum", "minimum"):
        if kind(dtype) == "f":
            return -language.inf if combine == "maximum" else language.inf
        bits = NUMPY[dtype].itemsize * 8 - (kind(dtype) == "i")
        low = -(1 << bits) if kind(dtype) == "i" else 0
        return low if combine == "maximum" else (1 << bits) - 1
    every = True if kind(dtype) == "b" else (-1 if kind(dtype) == "i" else (1 << 64) - 1)
    return {"add": 0, "or": 0, "mul": 1, "and": every}[combine]
