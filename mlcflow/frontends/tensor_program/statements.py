"""From Python statements to loop nests."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from mlcflow import language
from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.frontends.tensor_program.expressions import combine, evaluate
from mlcflow.frontends.tensor_program.scope import INVALID, Scope, TensorName, Value
from mlcflow.frontends.tensor_program.store import store
from mlcflow.frontends.tensor_program.tree import Loop, Symbol, TensorType

_ADVICE = {
    ast.If: "write a conditional expression, or select(condition, a, b)",
    ast.While: "write a for loop over grid, spatial, reduce or range",
    ast.Break: "loops always run to their end",
    ast.Continue: "write a conditional expression, or select(condition, a, b)",
    ast.FunctionDef: "a tensor function holds no other functions",
    ast.Import: "import outside of the function",
    ast.ImportFrom: "import outside of the function",
    ast.Assert: "shapes are checked already",
}


def read_body(scope: Scope, body: list[ast.stmt]) -> None:
    """Read statements in order; problems are reported to ``scope``."""
    for node in body:
        handler = _HANDLERS.get(type(node))
        if handler is None:
            advice = _ADVICE.get(type(node), "")
            text = ast.unparse(node).split("\n")[0]
            scope.report(node, f"unsupported statement '{text}'" + (advice and f": {advice}"))
        else:
            handler(scope, node)


def _expression(scope: Scope, node: ast.Expr) -> None:
    if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
        scope.report(node, f"unsupported statement '{ast.unparse(node)}': it has no effect")


def _pass(scope: Scope, node: ast.Pass) -> None:
    """Nothing to do."""


def _assign(scope: Scope, node: ast.Assign | ast.AnnAssign) -> None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if node.value is None or len(targets) != 1:
        scope.report(node, f"expected one assignment, found '{ast.unparse(node)}'")
        return
    target = targets[0]
    if isinstance(target, ast.Subscript):
        store(scope, node, target, evaluate(scope, node.value))
    elif isinstance(target, ast.Name) and _is_call_of(scope, node.value, language.empty):
        _bind(scope, target, _make_buffer(scope, target, node.value))
    elif isinstance(target, ast.Name):
        _bind(scope, target, evaluate(scope, node.value))
    elif isinstance(target, ast.Tuple):
        _unpack(scope, node, target, evaluate(scope, node.value))
    else:
        scope.report(target, f"cannot assign to '{ast.unparse(target)}'")


def _unpack(scope: Scope, node: ast.AST, target: ast.Tuple, value: Value) -> None:
    if value is not INVALID and (not isinstance(value, tuple) or len(value) != len(target.elts)):
        scope.report(node, f"expected {len(target.elts)} values to unpack")
        value = INVALID
    values = [INVALID] * len(target.elts) if value is INVALID else value
    for item, part in zip(target.elts, values, strict=True):
        if isinstance(item, ast.Name):
            _bind(scope, item, part)
        else:
            scope.report(item, f"cannot assign to '{ast.unparse(item)}'")


def _bind(scope: Scope, target: ast.Name, value: Value) -> None:
    """A name is bound once, so that it means the same everywhere."""
    taken = scope.names.get(target.id, INVALID)
    if taken is not INVALID:
        scope.report(
            target,
            f"'{target.id}' is bound already: expected a new name (values that change live in "
            "buffers: make one with empty, of shape () for a single number)",
        )
        return
    scope.names[target.id] = value


def _is_call_of(scope: Scope, node: ast.expr, function: Callable[..., Any]) -> bool:
    """Whether ``node`` calls that word of the language; reports nothing."""
    if not isinstance(node, ast.Call):
        return False
    count = len(scope.problems)
    found = evaluate(scope, node.func) is function
    del scope.problems[count:]
    return found


def _make_buffer(scope: Scope, target: ast.Name, node: ast.expr) -> Value:
    assert isinstance(node, ast.Call)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    given = dict(zip(("shape", "dtype"), node.args, strict=False)) | keywords
    if set(given) != {"shape", "dtype"} or len(node.args) > 2:
        return scope.report(node, "empty: expected a shape and an element type")
    if scope.loops:
        return scope.report(node, "empty: expected outside of loops; move it up")
    shape, dtype = evaluate(scope, given["shape"]), evaluate(scope, given["dtype"])
    if INVALID in (shape, dtype):
        return INVALID
    if not isinstance(shape, tuple | int | Symbol):
        return scope.report(node, "empty: expected a tuple of sizes")
    try:
        kind = language.tensor_type(shape, dtype)
    except MlcflowError as error:
        return scope.report(node, str(error))
    open_sizes = {s for t in scope.arguments.values() for s in t.shape if isinstance(s, Symbol)}
    for size in kind.shape:
        if isinstance(size, Symbol) and size not in open_sizes:
            known = [symbol.name for symbol in open_sizes]
            return scope.report(node, unknown_name("size", size.name, known))
    if target.id not in scope.names:
        scope.buffers[target.id] = kind
    return TensorName(target.id)


def _augmented(scope: Scope, node: ast.AugAssign) -> None:
    if not isinstance(node.target, ast.Subscript):
        scope.report(
            node,
            f"'{ast.unparse(node.target)}' cannot change: accumulate into an element of a "
            "buffer (make one with empty, of shape () for a single number)",
        )
        return
    old = evaluate(scope, node.target)
    value = combine(scope, node, node.op, old, evaluate(scope, node.value))
    if old is not INVALID and value is not INVALID:
        store(scope, node, node.target, value)


def _for(scope: Scope, node: ast.For) -> None:
    if node.orelse:
        scope.report(node, "unsupported 'else' of a loop")
    extents = _axes(scope, node.iter)
    names = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
    if extents is not None and len(names) != len(extents):
        scope.report(node, f"expected {len(extents)} loop variables, found {len(names)}")
        extents = None
    loops = []
    for number, name in enumerate(names):
        extent, kind = extents[number] if extents is not None else (1, "")
        if not isinstance(name, ast.Name):
            scope.report(name, f"expected a loop variable, found '{ast.unparse(name)}'")
            return
        if name.id in scope.names:
            scope.report(name, f"'{name.id}' is bound already: expected a new loop variable")
        scope.loop_count += 1
        loops.append(Loop(name.id, extent, kind, scope.loop_count))
    for tensor in _written(scope, node):
        scope.forget(tensor)  # a later iteration would not find what was read before the loop
    count = len(scope.problems)
    with scope.within(loops):
        read_body(scope, node.body)
    if extents is None:
        # The body was read for its names; its bounds mean nothing without extents.
        scope.problems[count:] = [
            p for p in scope.problems[count:] if p.message.startswith("unknown name")
        ]


def _written(scope: Scope, loop: ast.For) -> set[str]:
    """The buffers that the body of a loop writes."""
    found = set()
    for node in ast.walk(loop):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            owner = scope.names.get(node.value.id) if isinstance(node.value, ast.Name) else None
            if isinstance(owner, TensorName):
                found.add(owner.name)
    return found


def _axes(scope: Scope, node: ast.expr) -> list[tuple[int | Symbol, str]] | None:
    """Extent and kind of each loop of an iterator; ``None``, with a problem reported, if wrong."""
    function = evaluate(scope, node.func) if isinstance(node, ast.Call) else None
    kinds = {range: "", language.spatial: "spatial", language.reduce: "reduce"}
    if isinstance(node, ast.Call) and function is language.grid and not node.keywords:
        axes = [_axis(scope, item, kinds) for item in node.args]
        found = [axis for axis in axes if axis is not None]
        if not axes:
            scope.report(node, "grid: expected at least one extent")
        return found if found and len(found) == len(axes) else None
    if isinstance(node, ast.Call) and function in kinds:
        axis = _axis(scope, node, kinds)
        return None if axis is None else [axis]
    if function is not INVALID:
        scope.report(
            node,
            f"expected a loop over grid, spatial, reduce or range, found '{ast.unparse(node)}'",
        )
    return None


def _axis(scope: Scope, node: ast.expr, kinds: dict) -> tuple[int | Symbol, str] | None:
    kind = ""
    if isinstance(node, ast.Call):
        function = evaluate(scope, node.func)
        if function in kinds and len(node.args) == 1 and not node.keywords:
            kind, node = kinds[function], node.args[0]
        elif function in kinds:
            scope.report(node, f"'{ast.unparse(node)}': expected one extent; loops start at 0")
            return None
    extent = evaluate(scope, node)
    if isinstance(extent, Symbol) or (type(extent) is int and extent > 0):
        return extent, kind
    if extent is not INVALID:
        scope.report(node, f"expected a positive extent, found '{ast.unparse(node)}'")
    return None


def _with(scope: Scope, node: ast.With) -> None:
    is_init = len(node.items) == 1 and _is_call_of(scope, node.items[0].context_expr, language.init)
    if not is_init or node.items[0].optional_vars is not None:
        text = ast.unparse(node).split("\n")[0]
        scope.report(node, f"unsupported statement '{text}': expected 'with init():'")
        return
    scope.in_init = True
    read_body(scope, node.body)
    scope.in_init = False


def _return(scope: Scope, node: ast.Return) -> None:
    if scope.loops:
        scope.report(node, "expected 'return' after the loops, at the end of the function")
        return
    items = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    found = []
    for item in items:
        value = evaluate(scope, item) if item is not None else None
        if isinstance(value, TensorName) and value.name in scope.buffers:
            if value.name in found:
                scope.report(node, f"'{value.name}' is returned twice")
            found.append(value.name)
        elif value is not INVALID:
            shown = ast.unparse(item) if item is not None else "nothing"
            scope.report(node, f"return: expected buffers made with empty, found {shown}")
    scope.results = tuple(found)


def argument(scope: Scope, node: ast.arg, kind: Value) -> None:
    """Declare an argument of the function."""
    if not isinstance(kind, TensorType):
        if kind is not INVALID:
            scope.report(
                node,
                f"argument '{node.arg}': expected a type such as "
                f"'{node.arg}: Tensor((16, 16), \"float32\")'",
            )
        scope.names[node.arg] = INVALID
        return
    scope.arguments[node.arg] = kind
    scope.names[node.arg] = TensorName(node.arg)


_HANDLERS: dict[type, Callable[[Scope, Any], None]] = {
    ast.Expr: _expression,
    ast.Pass: _pass,
    ast.Assign: _assign,
    ast.AnnAssign: _assign,
    ast.AugAssign: _augmented,
    ast.For: _for,
    ast.With: _with,
    ast.Return: _return,
}
