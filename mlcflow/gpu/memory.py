"""Where the buffers of a launch lie.

What is made for the block as a whole, outside the work of one thread, is shared memory; what a
thread makes is its own. The place in the program decides, so that a copy made by ``cache_read``
in a loop bound to blocks needs no other word.
"""

from __future__ import annotations

import math

from mlcflow.errors import LoweringError
from mlcflow.mlir import gpu, ir, memref, walk

SHARED = "#gpu.address_space<workgroup>"
OWN = "mlcflow.own"
"""On an allocation of a block: each thread has one of its own."""
TILE = 1024
"""Bytes at whose multiples tensor cores want the tiles that they read from shared memory."""
_SMALLEST, _LINE = 256, 128
"""Bytes of the smallest of such tiles, eight lines of 32, and of all banks."""
SHARED_BYTES = 48 << 10
"""Shared memory of a block that a kernel may declare; ``dynamic_memory`` sees to more."""


def share(launch: gpu.LaunchOp, allocations: list[memref.AllocOp]) -> None:
    """Put allocations of a launch into shared memory: one for all threads of a block."""
    body, context = launch.regions[0].blocks[0], launch.context
    kinds = [in_shared_memory(static(op)) for op in allocations]
    for op, kind in zip(allocations, kinds, strict=True):
        buffer = body.add_argument(kind, op.location)
        op.memref.replace_all_uses_with(buffer)
        op.operation.erase()
        put_views_in_shared_memory(buffer)
    i64 = ir.IntegerType.get_signless(64, context)
    launch.attributes["workgroup_attributions"] = ir.IntegerAttr.get(i64, len(allocations))


def unit_of(nbytes: int) -> int:
    """At multiples of how many bytes a shared buffer begins: ``TILE`` where it may hold tiles."""
    return _LINE if nbytes % _SMALLEST else TILE


def put_views_in_shared_memory(value: ir.Value) -> None:
    """Let the views of ``value`` lie in shared memory, too."""
    for use in value.uses:
        for result in use.owner.operation.results:
            if isinstance(result.type, ir.MemRefType):
                result.set_type(in_shared_memory(ir.MemRefType(result.type)))
                put_views_in_shared_memory(result)


def in_shared_memory(kind: ir.MemRefType) -> ir.MemRefType:
    """The same type for memory that a block shares."""
    space = ir.Attribute.parse(SHARED, kind.context)
    return ir.MemRefType.get(kind.shape, kind.element_type, kind.layout, space)


def size_of(kind: ir.MemRefType) -> int:
    """Bytes of a buffer of known size."""
    element = kind.element_type
    if isinstance(element, ir.ComplexType):
        width = 2 * ir.ComplexType(element).element_type.width
    else:
        width = getattr(element, "width", 64)
    return math.prod(kind.shape) * max(1, width // 8)


def static(op: memref.AllocOp) -> ir.MemRefType:
    """The type of an allocation in a kernel; raises ``LoweringError`` if its size is open."""
    kind = ir.MemRefType(op.memref.type)
    if not kind.has_static_shape:
        raise LoweringError(
            "memory of unknown size in a kernel", op=str(op), location=str(op.location)
        )
    return kind


def own(launch: gpu.LaunchOp) -> None:
    """Give each thread its own copy of the allocations that are left.

    They are made once, at the start of the kernel: a stack in a loop would grow.
    """
    for op in walk(launch):
        if isinstance(op, memref.DeallocOp):
            op.operation.erase()
    for op in walk(launch):
        if isinstance(op, memref.AllocOp):
            with ir.InsertionPoint.at_block_begin(launch.regions[0].blocks[0]), op.location:
                private = memref.alloca(static(op), [], [])
            op.memref.replace_all_uses_with(private)
            op.operation.erase()
