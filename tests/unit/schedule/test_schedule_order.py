"""Primitives that change the order of loops, or make one of two."""

from __future__ import annotations

import pytest
from schedule_programs import (
    batch_matmul,
    convolution,
    count,
    linear_relu,
    matmul,
    names,
    reduction,
    refused,
)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["i_0", "j_0", "k_0"], ["I_0:2", "J_0:3", "K_0:2", "i_1:4", "j_1:2", "k_1:2"]),
        (["k_0", "j_0", "i_0"], ["K_0:2", "J_0:3", "I_0:2", "i_1:4", "j_1:2", "k_1:2"]),
        (["j_0", "i_0"], ["J_0:3", "I_0:2", "K_0:2", "i_1:4", "j_1:2", "k_1:2"]),
        (["k_1", "j_1", "i_1"], ["I_0:2", "J_0:3", "K_0:2", "k_1:2", "j_1:2", "i_1:4"]),
        (
            ["j_1", "i_0"],  # i_1 lies between the two places
            ["J_1:2", "J_0:3", "K_0:2", "I_1:4", "I_0:2", "i_1_unit:1", "j_1_unit:1", "k_1:2"],
        ),
    ],
)
def test_reorder(order: list[str], expected: list[str]) -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    schedule.tile("root", [4, 2, 2])
    schedule.reorder(*[f"root.{name}" for name in order])
    assert names(schedule, "root") == expected
    program.check(module)


def test_reorder_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    schedule.split("root.k", [None, 2])
    wrong = refused(schedule, "reorder", "root.k_1", "root.k_0")
    assert "the reduction loops k_0, k_1 would change places" in wrong and "rfactor" in wrong
    assert "expected different loops of one block" in refused(
        schedule, "reorder", "root.i", "fill0.i"
    )
    assert "expected different loops" in refused(schedule, "reorder", "root.i", "root.i")


def test_reorder_refuses_loops_with_work_between_them() -> None:
    _, schedule = linear_relu(8, 6, 4).schedule()
    schedule.tile_and_fuse("final", [4, 2])
    schedule.split("root.k", [None, 2])
    wrong = refused(schedule, "reorder", "root.k_0", "root.j_0")
    assert "there is other work between root.j_0 and root.k_0" in wrong


def test_interchange() -> None:
    program = batch_matmul(2, 3, 4, 5)
    module, schedule = program.schedule()
    schedule.interchange("root", [3, 1, 0, 2])
    assert names(schedule, "root") == ["l:5", "j:3", "i:2", "k:4"]
    assert schedule.block("root").operation.name == "linalg.generic"
    program.check(module)


def test_interchange_refuses() -> None:
    _, schedule = convolution(3, 2, 2, 4).schedule()
    wrong = refused(schedule, "interchange", "root", [0, 1, 2, 3, 5, 4, 6])
    assert "the reduction loops m, n, o would change places" in wrong
    wrong = refused(schedule, "interchange", "root", [0, 1])
    assert (
        "expected each of the 7 loops inside 'root' (i, j, k, l, m, n, o) by number once" in wrong
    )


def test_fuse_loops_around_a_block() -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    schedule.tile("root", [4, 2, 2])
    loop = schedule.fuse("root.i_0", "root.j_0")
    assert (str(loop), loop.extent, loop.kind) == ("root.i_0_j_0", 6, "parallel")
    assert names(schedule, "root") == ["I_0_J_0:6", "K_0:2", "i_1:4", "j_1:2", "k_1:2"]
    program.check(module)


def test_fuse_loops_inside_a_block() -> None:
    program = reduction(4, 6, "sum")
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 2])
    schedule.fuse("root.i_0", "root.i_1")
    assert names(schedule, "root") == ["I_0_I_1:4", "i_1_unit:1", "j:6"]
    assert count(schedule, "scf.for") == 1
    program.check(module)


def test_fuse_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "root.k is not the next loop inside root.i" in refused(
        schedule, "fuse", "root.i", "root.k"
    )
    assert "root.j is parallel, root.k is reduction" in refused(
        schedule, "fuse", "root.j", "root.k"
    )
    schedule.parallel("root.i")
    wrong = refused(schedule, "fuse", "root.i", "root.i_unit")
    assert "root.i or root.i_unit has one iteration only" in wrong
