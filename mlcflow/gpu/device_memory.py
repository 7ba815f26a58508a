"""What memory on a device asks of the code around kernels."""

from __future__ import annotations

from functools import partial

from mlcflow.gpu.arguments import add_to_callers
from mlcflow.gpu.axes import is_one_block
from mlcflow.graph.interface import add_argument, entry_points
from mlcflow.graph.linalg_ops import captured, indexing_maps, is_empty, owner
from mlcflow.graph.outline import kernels
from mlcflow.mlir import arith, func, gpu, ir, memref, scf, tensor, walk

CONSTANTS = "mlcflow.constants"


def separate_tiles(module: ir.Module) -> None:
    """Make each empty tensor right before its use, and no larger than that.

    One that was moved out of a loop, or merged with another, would be one piece of memory for
    all iterations: which is right one after the other, and a race when they are blocks.
    """
    for op in walk(module.operation):
        if isinstance(op, tensor.ExtractSliceOp) and is_empty(owner(op.source)):
            kind = ir.RankedTensorType(op.result.type)
            if kind.has_static_shape:
                with ir.InsertionPoint(op), op.location:
                    part = tensor.empty(list(kind.shape), kind.element_type)
                op.result.replace_all_uses_with(part)
                op.operation.erase()
    for op in walk(module.operation):
        if isinstance(op, tensor.EmptyOp):
            for use in list(op.result.uses):
                copy = op.operation.clone(ip=ir.InsertionPoint(use.owner))
                use.owner.operands[use.operand_number] = copy.results[0]
            op.operation.erase()


def hoist_allocations(module: ir.Module) -> None:
    """Let the callers of a kernel bring the memory that it allocates outside of loops.

    ``@main`` then plans it together with everything else.
    """
    for function in kernels(module):
        if is_one_block(function):
            continue  # all of it will be in the launch
        for op in list(function.entry_block.operations):
            if not isinstance(op, memref.AllocOp):
                continue
            kind = ir.MemRefType(op.memref.type)
            if kind.has_static_shape:
                memory = add_to_callers(function, kind, module, partial(_allocate, kind))
                op.memref.replace_all_uses_with(memory)
                op.operation.erase()


def _allocate(kind: ir.MemRefType, call: func.CallOp) -> ir.Value:
    return memref.alloc(kind, [], [])


def launch_scalars(module: ir.Module) -> None:
    """Wrap each linalg operation without a parallel loop in a loop of one iteration.

    Lowered by itself it would be loads and stores in host code, each a trip to the device.
    """
    for function in module.body.operations:
        if not isinstance(function, func.FuncOp):
            continue
        for op in walk(function):
            if op.operation.name.startswith("linalg.") and op.operation.regions and _is_serial(op):
                with ir.InsertionPoint(op), op.location:
                    index = ir.IndexType.get()
                    zero, one = arith.constant(index, 0), arith.constant(index, 1)
                    loop = scf.ForOp(zero, one, one)
                    with ir.InsertionPoint(loop.body):
                        end = scf.YieldOp([])
                op.operation.move_before(end.operation)


def _is_serial(op: ir.OpView) -> bool:
    """Whether no loop of a linalg operation chooses what it writes."""
    if op.operation.name == "linalg.yield":
        return False
    maps = indexing_maps(op)
    return bool(maps) and not maps[-1].results


def pass_constants(module: ir.Module) -> None:
    """Turn constant arrays that the entry points read into arguments.

    Their values stay in the module, as ``mlcflow.constants``, from where the runtime copies
    them to the device. Constants of kernels become a part of their code.
    """
    values: dict[str, ir.Attribute] = {}
    for function in entry_points(module):
        for op in walk(function):
            if isinstance(op, memref.GetGlobalOp):
                name = str(ir.FlatSymbolRefAttr(op.attributes["name"]).value)
                source = ir.SymbolTable(module.operation)[name]
                if name not in values:
                    values[name] = source.attributes["initial_value"]
                op.result.replace_all_uses_with(
                    add_argument(function, op.result.type, "constant", name)
                )
                op.operation.erase()
    if values:
        module.operation.attributes[CONSTANTS] = ir.DictAttr.get(values)


def sink_constants(module: ir.Module) -> None:
    """Let each launch refer to the constant arrays that it reads by itself."""
    for launch in [op for op in walk(module.operation) if isinstance(op, gpu.LaunchOp)]:
        body = launch.regions[0].blocks[0]
        for value in captured(launch):
            producer = owner(value)
            if isinstance(producer, memref.GetGlobalOp):
                inside = {op.operation for op in walk(launch)}
                copy = producer.operation.clone(ip=ir.InsertionPoint.at_block_begin(body))
                for use in list(value.uses):
                    if use.owner.operation in inside:
                        use.owner.operands[use.operand_number] = copy.results[0]
