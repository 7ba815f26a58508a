"""What an exported program is, as text: equal texts become equal modules.

This is what the cache of compiled programs asks before anything is lowered. The text is made of
what is known to decide about the module: the operations with their arguments, the types of the
inputs, the signature. Where something else could, there is no text, and nothing is cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.export.graph_signature import InputKind

_PLAIN = (
    bool | int | float | complex | str | torch.dtype | torch.device | torch.layout
    | torch.memory_format | None
)  # fmt: skip
_OWN_NAMESPACES = frozenset({"aten", "prim", "prims"})
_DECIDED = ("torch.", "_operator", "builtins", "math")
"""Modules whose functions the version of PyTorch or Python says all about."""


class _Unknown(Exception):
    """Something whose text does not tell what becomes of it."""


def identity(program: torch.export.ExportedProgram) -> str:
    """The text of a program; empty where it cannot be told.

    Does not depend on names of files, on values of parameters, or on the process.
    """
    signature = program.graph_signature
    if any(spec.kind == InputKind.CUSTOM_OBJ for spec in signature.input_specs):
        return ""
    try:
        lines = [*_graph(program.graph_module), str(signature), str(program.range_constraints)]
    except _Unknown:
        return ""
    return "\n".join([*lines, str(program.call_spec.in_spec), str(program.call_spec.out_spec)])


def _graph(module: torch.fx.GraphModule) -> Iterator[str]:
    yield "graph"
    for node in module.graph.nodes:
        yield f"{node.name} = {node.op} {_target(node, module)} {_value(node.args)} " + str(
            {key: _value(value) for key, value in sorted(node.kwargs.items())}
        )
        if node.op == "placeholder":
            yield _value(node.meta.get("val"))
        elif node.op == "get_attr":
            yield from _graph(_submodule(node, module))
    yield "end"


def _submodule(node: torch.fx.Node, module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The body of a branch or loop; a tensor at its place is data, which is in no text."""
    found: Any = module
    for name in str(node.target).split("."):
        found = getattr(found, name, None)
    if not isinstance(found, torch.fx.GraphModule):
        raise _Unknown(node)
    return found


def _target(node: torch.fx.Node, module: torch.fx.GraphModule) -> str:
    target = node.target
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace not in _OWN_NAMESPACES:
            raise _Unknown(node)  # its decomposition is somebody's Python
        return str(target)
    where = f"{getattr(target, '__module__', '')}."
    name = getattr(target, "__qualname__", "") or getattr(target, "__name__", "")
    if isinstance(target, torch._ops.HigherOrderOperator):
        where, name = "torch.", str(target)
    if not where.startswith(_DECIDED) or not name:
        raise _Unknown(node)
    return where + name


def _value(value: Any) -> str:
    """An argument, or the type of a tensor."""
    if isinstance(value, torch.fx.Node):
        return f"%{value.name}"
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return f"symbol({value})"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_value, value))})"
    if isinstance(value, dict):
        return str({_value(key): _value(item) for key, item in value.items()})
    if isinstance(value, slice):
        return f"slice({_value(value.start)}, {_value(value.stop)}, {_value(value.step)})"
    if isinstance(value, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return str(value)
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    raise _Unknown(value)


def _tensor(value: torch.Tensor) -> str:
    """The type of a tensor. Those of other kinds, such as nested ones, lack some of these facts."""
    try:
        facts = [value.dtype, value.device, value.layout, value.is_conj(), value.is_neg()]
        strides = value.stride() if value.layout is torch.strided else ()
        shape = tuple(map(str, value.shape))
    except (RuntimeError, NotImplementedError) as error:
        raise _Unknown(value) from error
    return f"tensor({shape}, {tuple(map(str, strides))}, {facts})"
