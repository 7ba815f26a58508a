"""What torch-mlir's FX importer lacks, and which operations its lowerings refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch_mlir.extras.fx_importer import GraphNodeImporter

from mlcflow.failure import source_lines
from mlcflow.mlir import ir, walk
from mlcflow.pipeline import Step


class NodeImporter(GraphNodeImporter):
    """The importer of FX nodes, with ``torch.cond`` added."""

    def _import_hop_cond(self, loc: ir.Location, node: Any, hop: Any) -> None:
        predicate, then_graph, else_graph, operands = node.args
        functions = self.fx_importer._graph_module_to_func_name
        types = [self._cc.value_info_to_type(value) for value in node.meta["val"]]
        values = [self._import_argument(loc, operand) for operand in operands]
        with loc:
            condition = ir.Operation.create(
                "torch.aten.Bool.Tensor",
                results=[self._cc.torch_bool_type],
                operands=[self._import_argument(loc, predicate)],
            ).result
            branch = ir.Operation.create(
                "torch.prim.If", results=types, operands=[condition], regions=2
            )
            for region, graph in zip(branch.regions, (then_graph, else_graph), strict=True):
                target = functions[id(getattr(node.graph.owning_module, graph.target))]
                with ir.InsertionPoint(region.blocks.append()):
                    call = ir.Operation.create(
                        "func.call",
                        results=types,
                        operands=values,
                        attributes={"callee": ir.FlatSymbolRefAttr.get(target)},
                    )
                    ir.Operation.create("torch.prim.If.yield", operands=list(call.results))
        self._multi_result_nodes.add(node)
        for index, result in enumerate(branch.results):
            self.bind_node_value(node, result, index)


# Operations that only build the operands of others.
_BUILDERS = ("torch.constant.", "torch.prim.ListConstruct", "torch.vtensor.literal")


@dataclass(frozen=True)
class Refused:
    """Equal operations that torch-mlir does not lower: the types of their operands, their lines."""

    operation: str
    types: tuple[str, ...]
    count: int
    where: str
    examples: tuple[ir.OpView, ...] = ()

    def __str__(self) -> str:
        types = ", ".join(self.types)
        return f"{self.operation}({types}) x {self.count}, at {self.where or '?'}"


def unsupported(module: ir.Module, steps: tuple[Step, ...]) -> list[Refused]:
    """Each distinct torch operation of ``module`` that ``steps`` cannot lower.

    Each operation is tried alone, in a function of its own, so that one does not hide the
    next.
    """
    seen: dict[str, list[ir.OpView]] = {}
    for op in walk(module.operation):
        if op.operation.name.startswith("torch.") and not op.operation.name.startswith(_BUILDERS):
            seen.setdefault(_key(op), []).append(op)
    found = []
    for ops in seen.values():
        if not _lowers_alone(ops[0], steps):
            where = source_lines(str(op.location) for op in ops)
            types = tuple(str(v.type).removeprefix("!torch.") for v in ops[0].operands)
            found.append(Refused(_operation_name(ops[0]), types, len(ops), where, tuple(ops)))
    return found


def _operation_name(op: ir.OpView) -> str:
    """``torch.operator`` is how an operation without a definition in torch-mlir appears."""
    if op.operation.name == "torch.operator":
        return ir.StringAttr(op.attributes["name"]).value
    return op.operation.name


def _key(op: ir.OpView) -> str:
    operands = [
        str(v.owner) if _is_builder(v) else str(v.type) for v in op.operands
    ]  # fmt: skip
    results = [str(r.type) for r in op.results]
    return f"{_operation_name(op)} {operands} {results}"


def _is_builder(value: ir.Value) -> bool:
    owner = value.owner
    return not isinstance(owner, ir.Block) and owner.operation.name.startswith(_BUILDERS)


def _lowers_alone(op: ir.OpView, steps: tuple[Step, ...]) -> bool:
    """Whether a function that holds ``op`` and nothing else reaches linalg."""
    with op.context, ir.Location.unknown():
        module = ir.Module.create()
        with ir.InsertionPoint(module.body):
            arguments = _leaves(op.operation)
            types = ir.FunctionType.get([v.type for v in arguments], [r.type for r in op.results])
            function = ir.Operation.create(
                "func.func",
                regions=1,
                attributes={
                    "sym_name": ir.StringAttr.get("main"),
                    "function_type": ir.TypeAttr.get(types),
                },
            )
        block = function.regions[0].blocks.append(*[v.type for v in arguments])
        copies = dict(zip(arguments, block.arguments, strict=True))
        with ir.InsertionPoint(block):
            copy = _copy(op.operation, copies)
            ir.Operation.create("func.return", operands=list(copy.results))
        try:
            for step in steps:
                step(module)
        except ir.MLIRError:
            return False
        return True


def _leaves(op: ir.Operation) -> list[ir.Value]:
    """The values that ``op`` and the builders of its operands take from outside."""
    leaves: dict[ir.Value, None] = {}
    for value in op.operands:
        if _is_builder(value):
            leaves.update(dict.fromkeys(_leaves(value.owner)))
        else:
            leaves[value] = None
    return list(leaves)


def _copy(op: ir.Operation, copies: dict[ir.Value, ir.Value]) -> ir.Operation:
    """Clone ``op`` at the insertion point, with the builders of its operands."""
    operands = []
    for value in op.operands:
        if value not in copies:
            copies[value] = _copy(value.owner, copies).results[0]
        operands.append(copies[value])
    clone = op.clone()
    for index, operand in enumerate(operands):
        clone.operands[index] = operand
    return clone
