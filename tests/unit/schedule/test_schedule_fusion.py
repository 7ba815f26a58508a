"""Primitives that decide where a block is computed."""

from __future__ import annotations

import pytest
from schedule_programs import (
    convolution,
    count,
    elementwise,
    linear_relu,
    matmul,
    names,
    reduction,
    refused,
    rows,
)

from mlcflow.mlir import walk


def test_tile_and_fuse() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    loops = schedule.tile_and_fuse("final", [4, 3], order=[1, 0])
    assert [str(loop) for loop in loops] == ["final.i_0", "final.j_0"]
    assert names(schedule, "final") == ["J_0:4", "I_0:2", "i_1:4", "j_1:3"]
    assert names(schedule, "root") == ["J_0:4", "I_0:2", "i:4", "j:3", "k:6"]
    assert names(schedule, "fill0") == ["J_0:4", "I_0:2", "i:4", "j:3"]
    program.check(module)


def test_tile_and_fuse_inside_loops_of_another_block() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [4, 6])
    schedule.tile_and_fuse("root", [2, 3])
    around = ["I_0:2", "J_0:2", "I_1:2", "J_1:2"]
    assert names(schedule, "root") == [*around, "i_2:2", "j_2:3", "k:6"]
    schedule.reorder("root.j_1", "root.i_1")
    assert names(schedule, "root")[:4] == ["I_0:2", "J_0:2", "J_1:2", "I_1:2"]
    program.check(module)


def test_tile_and_fuse_refuses() -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    wrong = refused(schedule, "tile_and_fuse", "final", [4, 5])
    assert "final.j has 12 iterations, which 5 does not divide" in wrong
    assert "root.k is a reduction" in refused(schedule, "tile_and_fuse", "root", [0, 0, 2])
    wrong = refused(schedule, "tile_and_fuse", "final", [4, 4], order=[0])
    assert "order [0] does not name each tiled loop" in wrong
    assert "expected at most 2" in refused(schedule, "tile_and_fuse", "final", [1, 1, 1])


@pytest.mark.parametrize("sizes", [[3, 5], [4, 5], [7, 1], [8, 11], [9, 13]])
def test_tile_and_fuse_with_overlapping_tiles(sizes: list[int]) -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", sizes, overlap=True)
    inner = schedule.loops("root")[-3:-1]
    assert [loop.extent for loop in inner] == [min(8, sizes[0]), min(12, sizes[1])]
    program.check(module)


def test_overlapping_tiles_are_not_added_to_twice() -> None:
    program = linear_relu(8, 12, 6)
    _, schedule = program.schedule()
    schedule.split("final.i", [None, 2])
    schedule.compute_at("root", "final.i_0")
    wrong = refused(schedule, "tile_and_fuse", "root", [0, 5], overlap=True)
    assert "compute twice what 'root' adds to its destination" in wrong


def test_compute_at() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.split("final.i", [None, 2])
    schedule.compute_at("root", "final.i_0")
    assert names(schedule, "root") == ["I_0:4", "i:2", "j:12", "k:6"]
    schedule.compute_at("fill0", "final.i_0")
    assert names(schedule, "fill0") == ["I_0:4", "i:2", "j:12"]
    program.check(module)


def test_compute_at_refuses() -> None:
    _, schedule = elementwise(4, 9).schedule()
    assert "root.i is inside its block" in refused(schedule, "compute_at", "block0", "root.i")
    schedule.split("root.j", [None, 2], peel=True)
    wrong = refused(schedule, "compute_at", "block0", "root.j_0")
    assert "expected everything that reads 'block0' to be inside root.j_0" in wrong
    assert "found outside: root_tail" in wrong
    assert "inside its own loop" in refused(schedule, "compute_at", "root", "root.j_0")


def test_compute_at_refuses_what_is_there_already() -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    schedule.tile_and_fuse("final", [4, 3])
    wrong = refused(schedule, "compute_at", "root", "final.i_0")
    assert "'root' is computed in final.i_0 already" in wrong


@pytest.mark.parametrize("last", ["i_0", "j_0"])
def test_reverse_compute_at(last: str) -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile("root", [4, 3])
    schedule.reorder("root.i_0", "root.j_0")
    schedule.reverse_compute_at("final", f"root.{last}")
    assert schedule.block("final").operation.parent == schedule.loop(f"root.{last}").op.operation
    expected = {"i_0": ["I_0:2", "i:4", "j:12"], "j_0": ["I_0:2", "J_0:4", "i:4", "j:3"]}
    assert names(schedule, "final") == expected[last]
    assert len(schedule.loop("root.i_0").op.results) == 1
    program.check(module)


def test_reverse_compute_at_a_reduction_splits_afterwards() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 2])
    schedule.split("root.k", [None, 3])
    schedule.reverse_compute_at("final", "root.i_0")
    schedule.compute_at("fill0", "root.i_0")
    assert names(schedule, "final") == ["I_0:4", "i:2", "j:12"]
    assert names(schedule, "fill0") == ["I_0:4", "i:2", "j:12"]
    assert names(schedule, "root") == ["I_0:4", "K_0:2", "i_1:2", "j:12", "k_1:3"]
    program.check(module)


def test_reverse_compute_at_refuses() -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    schedule.split("root.k", [None, 2])
    wrong = refused(schedule, "reverse_compute_at", "final", "root.k_0")
    assert "a tile is complete only after the reduction loops" in wrong
    assert "root.i is inside its block" in refused(
        schedule, "reverse_compute_at", "final", "root.i"
    )
    _, schedule = linear_relu(8, 12, 6).schedule()
    schedule.split("fill0.i", [None, 2])
    wrong = refused(schedule, "reverse_compute_at", "root", "fill0.i_0")
    assert "it is not elementwise with one result" in wrong
    wrong = refused(schedule, "reverse_compute_at", "final", "fill0.i_0")
    assert "others read the tensor too" in wrong


def test_reverse_compute_at_refuses_a_part_of_the_rows() -> None:
    _, schedule = rows(9, 4).schedule()
    schedule.split("block0.i", [None, 3])
    schedule.peel("block0.i_0")
    wrong = refused(schedule, "reverse_compute_at", "root", "block0.i_0")
    assert "the iterations do not make each element of the tensor once" in wrong


def test_decompose_reduction() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.split("final.i", [None, 2])
    schedule.compute_at("root", "final.i_0")
    schedule.decompose_reduction("root", "final.i_0")
    assert names(schedule, "fill0") == ["I_0:4", "i:2", "j:12"]
    program.check(module)


@pytest.mark.parametrize(("loop", "expected"), [("i", ["i:4", "j:12"]), ("j", ["i:4", "j:3"])])
def test_decompose_reduction_in_loops_of_its_own(loop: str, expected: list[str]) -> None:
    program = matmul(8, 12, 6)
    module, schedule = program.schedule()
    for name, size in (("i", 4), ("j", 3), ("k", 2)):
        schedule.split(f"root.{name}", [None, size])
    schedule.decompose_reduction("root", f"root.{loop}_0")
    around = ["I_0:2"] if loop == "i" else ["I_0:2", "J_0:4"]
    assert names(schedule, "fill0") == [*around, *expected]
    program.check(module)
    schedule.vectorize()
    schedule.hoist()
    assert "iter_args(%arg7 = %cst) -> (vector<4x3xf32>)" in str(schedule) or loop == "i"
    program.check(module, vectors=True)


def test_decompose_reduction_inside_a_loop_that_adds_refuses() -> None:
    _, schedule = matmul(8, 12, 6).schedule()
    schedule.split("root.k", [None, 2])
    schedule.split("root.i", [None, 4])
    wrong = refused(schedule, "decompose_reduction", "root", "root.i_0")
    assert "a reduction loop around root.i_0 adds to what 'root' has so far" in wrong


def test_decompose_reduction_in_an_unrolled_loop_refuses() -> None:
    _, schedule = matmul(8, 12, 6).schedule()
    schedule.split("root.i", [None, 2])
    schedule.unroll("root.i_0", 2)
    wrong = refused(schedule, "decompose_reduction", "root", "root.i_0")
    assert "'root' has no tile of its own in each iteration of root.i_0" in wrong


def test_decompose_reduction_refuses() -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    schedule.split("root.k", [None, 2])
    assert "'final' is no reduction" in refused(
        schedule, "decompose_reduction", "final", "root.k_0"
    )
    wrong = refused(schedule, "decompose_reduction", "root", "root.k_0")
    assert "root.k_0 is a reduction: each iteration would start anew" in wrong


def test_flatten() -> None:
    program = rows(4, 6)
    module, schedule = program.schedule()
    schedule.flatten("root")
    assert names(schedule, "root") == ["i:24"]
    assert names(schedule, "block0") == ["i:4", "j:6"]
    program.check(module)


def test_flatten_refuses() -> None:
    _, schedule = elementwise(4, 6).schedule()
    wrong = refused(schedule, "flatten", "root")
    assert "operand 2 of 'root' is broadcast or transposed" in wrong
    assert "operand 1 of 'block0' is broadcast or transposed" in refused(
        schedule, "flatten", "block0"
    )
    _, schedule = reduction(4, 6, "sum").schedule()
    assert "'root' is not elementwise" in refused(schedule, "flatten", "root")
    assert "expected two loops or more" in refused(schedule, "flatten", "final")


def test_drop_unit_loops() -> None:
    program = convolution(4, 3, 2, 4)
    module, schedule = program.schedule()
    schedule.tile("root", [1, 1, 0, 0, 1, 1])
    assert names(schedule, "root")[-7:] == [
        "i_1:1", "j_1:1", "k:4", "l:4", "m_1:1", "n_1:1", "o:2",
    ]  # fmt: skip
    schedule.drop_unit_loops()
    assert names(schedule, "root")[-3:] == ["k:4", "l:4", "o:2"]
    program.check(module)


def test_drop_unit_loops_refuses() -> None:
    _, schedule = matmul(4, 8, 4).schedule()
    schedule.vectorize()
    assert "no blocks are left" in refused(schedule, "drop_unit_loops")


@pytest.mark.parametrize("kind", ["sum", "max", "exp"])
def test_rfactor(kind: str) -> None:
    program = reduction(4, 12, kind)
    module, schedule = program.schedule()
    joined = schedule.rfactor("root.j", 4)
    assert joined == "root_join"
    assert schedule.blocks() == ["fill0", "root_fill", "root", "root_join", "final"]
    assert names(schedule, "root") == ["J_0:3", "i:4", "j_1:4"]
    assert [loop.kind for loop in schedule.loops("root")] == ["reduction", "parallel", "parallel"]
    assert count(schedule, "scf.for") == 1
    program.check(module)


def test_rfactor_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    wrong = refused(schedule, "rfactor", "root.i", 2)
    assert "expected a reduction loop inside its block, got root.i" in wrong
    wrong = refused(schedule, "rfactor", "root.k", 3)
    assert "root.k has 4 iterations, which 3 does not divide" in wrong
    schedule.split("root.k", [None, 2])
    assert "got root.k_0" in refused(schedule, "rfactor", "root.k_0", 2)
    assert not [op for op in walk(schedule.function) if "join" in str(op.operation.attributes)]
