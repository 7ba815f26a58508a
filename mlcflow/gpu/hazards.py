"""Which pieces of work touch the same memory, and barriers between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlcflow.gpu.memory import OWN
from mlcflow.mlir import gpu, ir, scf, walk

ORDERED = "mlcflow.ordered"
"""On work that waits for what it needs by itself."""

WRITES = {
    "memref.store": (1,),
    "memref.atomic_rmw": (1,),
    "memref.copy": (1,),
    "vector.store": (1,),
    "vector.transfer_write": (1,),
    "vector.maskedstore": (0,),
    "vector.scatter": (0,),
    "nvgpu.device_async_copy": (0,),
    "nvvm.mbarrier.init": (),
    "nvvm.fence.mbarrier.init": (),
    "nvvm.mbarrier.arrive.expect_tx": (),
    "nvvm.cp.async.bulk.tensor.shared.cluster.global": (),
}
"""The operands that an operation writes; other operands in memory are read. What is written by
address waits by barriers of its own."""


@dataclass(frozen=True)
class Access:
    """The buffers that a piece of work reads and writes."""

    reads: frozenset[ir.Value] = frozenset()
    writes: frozenset[ir.Value] = frozenset()

    def __or__(self, other: Access) -> Access:
        return Access(self.reads | other.reads, self.writes | other.writes)

    def conflicts(self, other: Access) -> bool:
        """Whether their order matters."""
        both = self.reads | self.writes
        return bool(self.writes & (other.reads | other.writes) or both & other.writes)


def root(value: ir.Value) -> ir.Value:
    """The buffer that a view is a part of."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner
        if not op.operands or not _is_memory(op.operands[0]):
            break
        value = op.operands[0]
    return value


def _is_memory(value: ir.Value) -> bool:
    return isinstance(value.type, ir.MemRefType | ir.UnrankedMemRefType)


def _is_private(buffer: ir.Value) -> bool:
    """Whether each thread has a copy of its own."""
    producer = buffer.owner
    if isinstance(producer, ir.Block):
        return False
    return producer.operation.name == "memref.alloca" or OWN in producer.operation.attributes


def writes_memory(op: ir.OpView) -> bool:
    """Whether ``op`` itself writes to memory."""
    return op.operation.name in WRITES


def access_of(op: ir.OpView) -> Access:
    """What ``op`` and everything inside it touches."""
    reads: set[ir.Value] = set()
    writes: set[ir.Value] = set()
    for inner in [op, *walk(op)]:
        if any(_is_memory(result) for result in inner.operation.results):
            continue  # a view
        written = WRITES.get(inner.operation.name, ())
        for number, value in enumerate(inner.operation.operands):
            buffer = root(value) if _is_memory(value) else None
            if buffer is not None and not _is_private(buffer):
                (writes if number in written else reads).add(buffer)
    return Access(frozenset(reads), frozenset(writes))


def insert_barriers(body: ir.Block, is_unit: Callable[[ir.OpView], bool]) -> None:
    """Let the threads wait between units that conflict."""
    _insert(body, Access(), is_unit)


def _insert(body: ir.Block, pending: Access, is_unit: Callable[[ir.OpView], bool]) -> Access:
    """``pending``: accesses since the last barrier; gives those at the end of ``body``."""
    for op in list(body.operations):
        access = access_of(op)
        if access == Access():
            continue
        if ORDERED in op.operation.attributes:
            pending |= access
            continue
        if pending.conflicts(access):
            _barrier_before(op)
            pending = Access()
        if not is_unit(op) and op.operation.regions:
            for region in op.operation.regions:
                for inner in region.blocks:
                    last = _insert(inner, Access(), is_unit)
                    if isinstance(op, scf.ForOp) and last.conflicts(access):
                        # The next iteration begins with what this one has not finished.
                        _barrier_before(inner.operations[len(inner.operations) - 1])
        pending |= access
    return pending


def _barrier_before(op: ir.OpView) -> None:
    with ir.InsertionPoint(op), op.location:
        gpu.BarrierOp()
