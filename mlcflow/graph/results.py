"""Destination passing: results are memory that the caller owns."""

from __future__ import annotations

from mlcflow.errors import LoweringError
from mlcflow.failure import source_lines
from mlcflow.graph.interface import entry_points
from mlcflow.graph.linalg_ops import owner
from mlcflow.mlir import arith, bufferization, ir, linalg, memref, walk
from mlcflow.passes import Pass

_FREE = Pass("buffer-deallocation-pipeline")
_TO_ARGUMENTS = Pass(
    "buffer-results-to-out-params",
    modify_public_functions=True,
    hoist_static_allocs=True,
)


def require_memory(module: ir.Module) -> None:
    """Raise ``LoweringError`` that lists every operation which is still on tensors."""
    left: dict[str, list[str]] = {}
    for op in walk(module.operation):
        values = [*op.operation.operands, *op.operation.results]
        if not isinstance(op, bufferization.ToTensorOp | bufferization.ToBufferOp) and any(
            isinstance(value.type, ir.RankedTensorType) for value in values
        ):
            left.setdefault(op.operation.name, []).append(str(op.location))
    if left:
        lines = [f"{name} x {len(where)}" for name, where in left.items()]
        raise LoweringError(
            f"no way is known to put {len(left)} kind(s) of operation into memory: "
            + ", ".join(lines),
            op=next(iter(left)),
            location=source_lines(place for where in left.values() for place in where),
        )


def results_to_arguments(module: ir.Module) -> None:
    """Turn the results of the entry points into arguments that the caller allocates.

    A result whose size only the function knows stays a result: then all do, since the upstream
    pass changes all or none.
    """
    _return_once(module)
    _allocate_in_the_shape_returned(module)
    types = [kind for function in entry_points(module) for kind in function.type.results]
    if all(ir.MemRefType(kind).has_static_shape for kind in types):
        _TO_ARGUMENTS(module)


def _return_once(module: ir.Module) -> None:
    """Copy memory that a function returns a second time, on which the upstream pass crashes."""
    for function in entry_points(module):
        block = function.entry_block
        terminator = block.operations[len(block.operations) - 1].operation
        seen = set()
        for index, value in enumerate(terminator.operands):
            if value in seen:
                terminator.operands[index] = _copy(value, terminator)
            seen.add(value)


def _copy(value: ir.Value, before: ir.Operation) -> ir.Value:
    """New memory with the contents of ``value``, made ahead of an operation."""
    kind = ir.MemRefType(value.type)
    with ir.InsertionPoint(before), before.location:
        sizes = [
            memref.dim(value, arith.constant(ir.IndexType.get(), d))
            for d in range(kind.rank)
            if kind.is_dynamic_dim(d)
        ]
        copy = memref.alloc(kind, sizes, [])
        memref.copy(value, copy)
    return copy


def _allocate_in_the_shape_returned(module: ir.Module) -> None:
    """Let memory that is returned in another shape have that shape from the start.

    The upstream pass passes on an allocation that is returned, but copies a view of one.
    """
    for function in entry_points(module):
        block = function.entry_block
        terminator = block.operations[len(block.operations) - 1].operation
        for index, value in enumerate(terminator.operands):
            views, source = [], owner(value)
            while isinstance(source, memref.ExpandShapeOp | memref.CollapseShapeOp):
                views.append(source)
                source = owner(source.src)
            is_known = all(ir.MemRefType(view.src.type).has_static_shape for view in views)
            if views and is_known and isinstance(source, memref.AllocOp):
                terminator.operands[index] = _allocate_like(views, source)


def _allocate_like(views: list[ir.OpView], old: memref.AllocOp) -> ir.Value:
    """Replace an allocation by one of the type of ``views[0]``; gives the new one."""
    with ir.InsertionPoint(old), old.location:
        view = new = memref.alloc(views[0].result.type, [], [], alignment=old.alignment)
        for shown in views:
            kind = ir.MemRefType(shown.src.type)
            if isinstance(shown, memref.ExpandShapeOp):
                view = memref.collapse_shape(kind, view, shown.reassociation)
            else:
                view = memref.expand_shape(kind, view, shown.reassociation, [], list(kind.shape))
    old.memref.replace_all_uses_with(view)
    old.operation.erase()
    return new


def copy_without_runtime(module: ir.Module) -> None:
    """Copy memory by a linalg operation: ``memref.copy`` of strided memory calls a C function
    that the wheel does not carry.
    """
    for op in walk(module.operation):
        if isinstance(op, memref.CopyOp):
            with ir.InsertionPoint(op), op.location:
                rank = ir.MemRefType(op.target.type).rank
                identity = ir.AffineMap.get_identity(rank)
                _generic_copy(op.source, op.target, identity)
            op.operation.erase()


def _generic_copy(source: ir.Value, target: ir.Value, identity: ir.AffineMap) -> None:
    generic = linalg.GenericOp(
        [],
        [source],
        [target],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(identity)] * 2),
        ir.ArrayAttr.get([ir.Attribute.parse("#linalg.iterator_type<parallel>")] * identity.n_dims),
    )
    element = ir.MemRefType(target.type).element_type
    block = generic.regions[0].blocks.append(element, element)
    with ir.InsertionPoint(block):
        linalg.YieldOp([block.arguments[0]])


def free_buffers(module: ir.Module) -> None:
    """Give every allocation an end of life; nothing to do in a module that frees already."""
    if not any(isinstance(op, memref.DeallocOp) for op in walk(module.operation)):
        _FREE(module)
