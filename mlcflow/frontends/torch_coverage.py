"""What of a PyTorch model does not reach linalg: all of it, not the first."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import HigherOrderOperator

from mlcflow import mlir
from mlcflow.check.blockers import Blocker, remedy
from mlcflow.errors import ImportModelError, MlcflowError
from mlcflow.frontends.torch import TO_LINALG, import_graph, import_torch, strip_constants
from mlcflow.frontends.torch_export import as_module, decompose, export
from mlcflow.frontends.torch_ops import Refused, unsupported
from mlcflow.mlir import ir

_TENSOR = re.compile(r"vtensor<\[([\d,?]*)\],(\w+)>")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def to_linalg(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> tuple[list[Blocker], ir.Module | None]:
    """All that stands in the way, and the module, without what is in the way.

    What is refused becomes an argument, so that the rest goes on. ``None``: nothing can.
    """
    try:
        return [], import_torch(model, args, kwargs).module
    except ImportModelError as error:
        failure = error
    blockers: list[Blocker] = []
    program = _exported(model, args, kwargs, blockers)
    if program is None:
        return blockers, None
    stage = "decompose"
    try:
        decomposed = decompose(program)
        strip_constants(decomposed.graph, decomposed.graph_signature)
        stage = "import"
        blockers += _cut_nodes(decomposed.graph)
        module = import_graph(decomposed)
    except ImportModelError as error:  # of a draft, it says no more than PyTorch has
        return blockers or [_blocker(stage, error)], None
    refused = unsupported(module, TO_LINALG)
    names = {each.operation for each in refused}
    blockers += [_of_operation(each, program, names) for each in refused]
    try:
        _cut(module, refused)
        for step in TO_LINALG:
            step(module)
    except (ir.MLIRError, MlcflowError):
        return blockers or [_blocker("linalg", failure)], None
    return blockers or [_blocker("import", failure)], module


def _exported(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any], blockers: list[Blocker]
) -> torch.export.ExportedProgram | None:
    """The program; if PyTorch refuses, one that is only good for seeing what else is refused."""
    try:
        return export(model, args, kwargs, None)
    except ImportModelError as error:
        blockers.append(_blocker("export", error))
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    try:
        with torch.no_grad():
            program = torch.export.draft_export(as_module(model), args, kwargs)
        _drop_guards(program.graph)
        return program
    except Exception:  # it is a second attempt: the first has said why
        return None


def _drop_guards(graph: torch.fx.Graph) -> None:
    """Remove what a draft assumes about values, which torch-mlir cannot import."""
    for node in reversed(graph.nodes):
        guards = node.target is torch.ops.aten._assert_scalar.default
        if guards or (node.op == "call_function" and not node.users):
            graph.erase_node(node)


def _blocker(stage: str, error: Exception) -> Blocker:
    reason = next(line.strip() for line in str(error).splitlines() if line.strip())
    reason = reason if len(reason) <= 300 else reason[:300] + " ..."
    text = "\n".join([str(error), str(error.__cause__)])
    own = [f"{m[1]}:{m[2]}" for m in _FRAME.finditer(text) if _is_own(m[1])]
    return Blocker(stage, "", 1, (), own[-1] if own else "", reason, remedy(stage, ""))


def _is_own(file: str) -> bool:
    """Whether the user wrote the file."""
    return "site-packages" not in file and not file.startswith("<")


def _cut_nodes(graph: torch.fx.Graph) -> list[Blocker]:
    """Make inputs of what loops give that the importer does not know, and remove them."""
    seen: dict[Any, list[torch.fx.Node]] = {}
    for node in list(graph.nodes):
        if isinstance(node.target, HigherOrderOperator) and node.target.name() != "cond":
            seen.setdefault(node.target, []).append(node)
    found = []
    for target, nodes in seen.items():
        where = dict.fromkeys(filter(None, map(_line_of, nodes)))
        tensors = [v for v in nodes[0].all_input_nodes if v.op != "get_attr"]
        types, name = tuple(map(_type_of, tensors)), _name_of(target)
        about = len(nodes), types, ", ".join(where), "torch-mlir's importer does not know it"
        found.append(Blocker("import", name, *about, remedy("import", name)))
        for node in nodes:
            for user in list(node.users):
                _make_input(graph, user)
            graph.erase_node(node)
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return found


def _make_input(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        made = graph.placeholder(f"cut_{node.name}")
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _name_of(target: Any) -> str:
    return str(target.name())


def _type_of(node: torch.fx.Node) -> str:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _line_of(node: torch.fx.Node) -> str:
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in frames if _is_own(file)]
    return own[-1] if own else ""


def _of_operation(refused: Refused, program: Any, names: set[str]) -> Blocker:
    name = refused.operation.removeprefix("torch.")
    return Blocker(
        "linalg",
        name,
        refused.count,
        tuple(map(_short, refused.types)),
        refused.where,
        "torch-mlir does not lower it",
        _decomposition(refused.operation, program, names) or remedy("linalg", name),
    )


def _short(kind: str) -> str:
    """``vtensor<[8,8],f32>`` as ``f32[8x8]``, other types as they are."""
    found = _TENSOR.fullmatch(kind)
    return f"{found[2]}[{found[1].replace(',', 'x')}]" if found else kind


def _decomposition(name: str, program: Any, refused: set[str]) -> str:
    """How to use the decomposition that PyTorch has of an operation; empty if none helps."""
    _, operator, *overload = name.removeprefix("torch.").split(".")
    packet = getattr(torch.ops.aten, operator, None)
    found = getattr(packet, overload[0] if overload else "default", None)
    if found not in decomposition_table:
        return ""
    try:
        again = decompose(program.run_decompositions({found: decomposition_table[found]}))
        strip_constants(again.graph, again.graph_signature)
        left = {each.operation for each in unsupported(import_graph(again), TO_LINALG)}
    except Exception:  # PyTorch's own code, on a model that it may not fit
        return ""
    if not left <= refused - {name}:
        return ""
    return (
        f"PyTorch can decompose it: op = torch.ops.{found}; compile torch.export.export(model, "
        "args).run_decompositions({op: torch._decomp.decomposition_table[op]})"
    )


def _cut(module: ir.Module, refused: list[Refused]) -> None:
    """Make arguments of what the refused operations give, and remove them."""
    with module.context, ir.Location.unknown():
        for op in [op for each in refused for op in each.examples]:
            function = op.operation.parent
            if function.name != "func.func":
                raise MlcflowError(f"{op.operation.name} lies in a branch: the rest cannot go on")
            block = function.regions[0].blocks[0]
            for result in op.results:
                result.replace_all_uses_with(block.add_argument(result.type, op.location))
            op.operation.erase()
            old = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
            kinds = [argument.type for argument in block.arguments]
            kind = ir.FunctionType.get(kinds, old.results)
            function.attributes["function_type"] = ir.TypeAttr.get(kind)
        module.operation.verify()


def as_text(
    model: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> tuple[list[Blocker], str]:
    """:func:`to_linalg` with the module as text; empty if there is none."""
    blockers, module = to_linalg(model, args, kwargs)
    return blockers, mlir.asm(module, locations=True) if module is not None else ""
