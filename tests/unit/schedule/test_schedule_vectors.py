"""Primitives that map blocks to vectors."""

from __future__ import annotations

from schedule_programs import (
    batch_matmul,
    convolution,
    count,
    elementwise,
    linear_relu,
    matmul,
    reduction,
    refused,
    rows,
)

from mlcflow.mlir import scf, walk
from mlcflow.schedule.schedule import Schedule


def test_vectorize_some_blocks() -> None:
    program = linear_relu(8, 16, 6)
    module, schedule = program.schedule()
    schedule.vectorize("root", "fill0")
    assert schedule.blocks() == ["final"]
    assert count(schedule, "vector.contract") == 1
    program.check(module, vectors=True)


def test_vectorize_all_blocks() -> None:
    programs = (rows(4, 16), elementwise(4, 8), reduction(4, 8, "max"), batch_matmul(2, 3, 8, 4))
    for program in programs:
        module, schedule = program.schedule()
        schedule.vectorize()
        assert schedule.blocks() == []
        assert count(schedule, "vector.transfer_write") >= 1
        program.check(module, vectors=True)


def test_vectorize_refuses() -> None:
    _, schedule = matmul(256, 256, 4).schedule()
    wrong = refused(schedule, "vectorize")
    assert "'fill0' would be a vector of 256 x 256 elements, more than 16384" in wrong
    assert "'root' would be a vector of 256 x 256 x 4 elements" in wrong
    assert "unknown block 'rot'" in refused(schedule, "vectorize", "rot")
    _, schedule = convolution(3, 2, 2, 4).schedule()
    assert "'root' moves through a window" in refused(schedule, "vectorize", "root")
    _, schedule = matmul(4, 8, 4).schedule()
    schedule.vectorize()
    assert "kernel 'main' has no blocks left" in refused(schedule, "vectorize")


def test_tensorize() -> None:
    program = matmul(4, 16, 6)
    module, schedule = program.schedule()
    schedule.tensorize("root", "vector.contract")
    assert count(schedule, "vector.contract") == 1 and schedule.blocks() == ["fill0"]
    program.check(module, vectors=True)


def test_tensorize_refuses() -> None:
    _, schedule = linear_relu(4, 16, 6).schedule()
    wrong = refused(schedule, "tensorize", "final", "vector.contract")
    assert "'final' (linalg.generic) is no contraction" in wrong
    wrong = refused(schedule, "tensorize", "root", "vector.contrct")
    assert "unknown intrinsic 'vector.contrct'; did you mean 'vector.contract'?" in wrong


def test_hoist_keeps_accumulators_in_registers() -> None:
    program = linear_relu(8, 32, 12)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [4, 16])
    schedule.split("root.k", [None, 2])
    schedule.vectorize()
    schedule.hoist()
    carried = [str(loop.results[0].type) for loop in _loops(schedule)]
    assert "vector<4x16xf32>" in carried
    program.check(module, vectors=True)


def _loops(schedule: Schedule) -> list:
    return [op for op in walk(schedule.function) if isinstance(op, scf.ForOp)]


def test_hoist_refuses() -> None:
    _, schedule = matmul(4, 8, 4).schedule()
    assert "kernel 'main' has no loop to move anything out of" in refused(schedule, "hoist")
