"""Primitives that split, mark, peel and unroll loops: the loops, the numbers, the refusals."""

from __future__ import annotations

import pytest
from schedule_programs import count, elementwise, linear_relu, matmul, names, refused

from mlcflow.mlir import ir


def test_split_inside_a_block() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    outer, middle, inner = schedule.split("root.j", [2, None, 3])
    assert names(schedule, "root") == ["J_0:2", "J_1:2", "i:8", "j_2:3", "k:6"]
    assert [str(outer), str(middle), str(inner)] == ["root.j_0", "root.j_1", "root.j_2"]
    assert names(schedule, "final") == ["i:8", "j:12"]
    program.check(module)


def test_split_by_the_whole_extent_makes_a_loop_of_one_iteration() -> None:
    program = matmul(4, 6, 8)
    module, schedule = program.schedule()
    outer, inner = schedule.split("root.k", [None, 8])
    assert (outer.extent, outer.is_gone, inner.extent) == (1, True, 8)
    assert count(schedule, "scf.for") == 0
    assert "one iteration" in refused(schedule, "split", outer, [None, 1])
    program.check(module)


def test_split_of_a_loop_around_its_block() -> None:
    program = matmul(4, 24, 8)
    module, schedule = program.schedule()
    schedule.split("root.j", [None, 2])
    loops = schedule.split("root.j_0", [2, None, 3])
    assert names(schedule, "root") == ["J_0_0:2", "J_0_1:2", "J_0_2:3", "i:4", "j_1:2", "k:8"]
    assert [loop.extent for loop in loops] == [2, 2, 3]
    program.check(module)


def test_split_with_peel_makes_a_tail() -> None:
    program = matmul(7, 8, 4)
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 3], peel=True)
    assert schedule.blocks() == ["fill0", "root", "root_tail"]
    assert names(schedule, "root") == ["I_0:2", "i_1:3", "j:8", "k:4"]
    assert names(schedule, "root_tail") == ["i_1:1", "j:8", "k:4"]
    program.check(module)


def test_split_with_peel_of_one_whole_step_leaves_no_loop() -> None:
    program = matmul(7, 8, 4)
    module, schedule = program.schedule()
    outer, inner = schedule.split("root.i", [None, 5], peel=True)
    assert (outer.is_gone, inner.extent) == (True, 5)
    assert names(schedule, "root_tail") == ["i_1:2", "j:8", "k:4"]
    assert count(schedule, "scf.for") == 0
    program.check(module)


def test_loops_of_different_blocks_with_one_name_are_different() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 2])
    schedule.split("final.i", [None, 2])
    schedule.unroll("root.i_0")
    assert names(schedule, "final") == ["I_0:4", "i_1:2", "j:12"]
    assert count(schedule, "scf.for") == 1
    program.check(module)


def test_a_block_inside_the_loops_of_another_names_its_own_apart() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [4, 0])
    loops = schedule.split("root.i", [None, 2])
    assert [loop.name for loop in loops] == ["i_1", "i_2"]
    assert names(schedule, "root") == ["I_0:2", "I_1:2", "i_2:2", "j:12", "k:6"]
    program.check(module)


@pytest.mark.parametrize(
    ("loop", "factors", "message"),
    [
        ("root.i", [None, 3], "root.i has 8 iterations, which 3 does not divide; pad the block"),
        ("root.i", [2, 4], "expected one None among positive integers, got [2, 4]"),
        ("root.i", [None, None], "expected one None"),
        ("root.i", [None, 0], "expected one None among positive integers"),
        ("root.i", [None, 9], "root.i has 8 iterations, fewer than 9"),
        ("root.z", [None, 2], "unknown loop of block 'root' 'z' (known: i, j, k)"),
        ("rot.i", [None, 2], "unknown block 'rot'; did you mean 'root'? (known: fill0, root)"),
    ],
)
def test_split_refuses(loop: str, factors: list, message: str) -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert message in refused(schedule, "split", loop, factors)


def test_split_peels_only_what_is_inside() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "must be None" in refused(schedule, "split", "root.i", [3, None], peel=True)
    schedule.split("root.i", [None, 2])
    assert "3 must divide" in refused(schedule, "split", "root.i_0", [None, 3], peel=True)


def test_tile_gives_a_loop_a_size() -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    loops = schedule.tile("root", [4, 6, 2])
    assert [(str(loop), loop.extent) for loop in loops] == [
        ("root.i_0", 2), ("root.j_0", 1), ("root.k_0", 2),
    ]  # fmt: skip
    assert names(schedule, "root") == ["I_0:2", "K_0:2", "i_1:4", "j_1:6", "k_1:2"]
    program.check(module)


def test_tile_changes_all_or_nothing() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "root.j has 6 iterations" in refused(schedule, "tile", "root", [4, 4, 2])
    assert "expected at most 3" in refused(schedule, "tile", "root", [1, 1, 1, 1])
    assert "0 or more" in refused(schedule, "tile", "root", [-1])


def test_peel_does_the_first_iteration_apart() -> None:
    program = linear_relu(9, 6, 4)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [3, 0])
    schedule.split("root.j", [None, 2])
    loop = schedule.peel("final.i_0")
    assert (str(loop), loop.extent) == ("final.i_0", 2)
    assert schedule.blocks() == [
        "fill0_first", "root_first", "final_first", "fill0", "root", "final",
    ]  # fmt: skip
    assert names(schedule, "root") == ["I_0:2", "J_0:3", "i:3", "j_1:2", "k:4"]
    assert names(schedule, "root_first") == ["J_0:3", "i:3", "j_1:2", "k:4"]
    schedule.unroll("root_first.j_0")
    assert names(schedule, "root") == ["I_0:2", "J_0:3", "i:3", "j_1:2", "k:4"]
    program.check(module)


def test_peel_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    expected = "expected a loop of at least 2 iterations around its block, got root.i of 8 inside"
    assert expected in refused(schedule, "peel", "root.i")


@pytest.mark.parametrize("factor", [None, 2, 4])
def test_unroll_repeats_the_body(factor: int | None) -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 2])
    schedule.unroll("root.i_0", factor)
    copies = [name for name in schedule.blocks() if name.startswith("root")]
    assert copies == ["root", "root_tail", "root_tail2", "root_tail3"][: factor or 4]
    assert count(schedule, "scf.for") == (factor == 2)
    program.check(module)


def test_unroll_takes_a_loop_out_of_its_block() -> None:
    program = matmul(4, 3, 2)
    module, schedule = program.schedule()
    schedule.unroll("root.j")
    assert len([name for name in schedule.blocks() if name.startswith("root")]) == 3
    program.check(module)


def test_unroll_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    expected = "root.i has 8 iterations, which 3 does not divide"
    assert expected in refused(schedule, "unroll", "root.i", 3)
    assert "divide" in refused(schedule, "unroll", "root.i", -1)


def test_parallel_and_bind_mark_loops() -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    outer, _ = schedule.split("root.i", [None, 2])
    loop = schedule.parallel(outer)
    assert ir.StringAttr(loop.op.attributes["mlcflow.parallel"]).value == "threads"
    bound = schedule.bind("root.j", "thread.x")
    assert ir.StringAttr(bound.op.attributes["mlcflow.bind"]).value == "thread.x"
    assert names(schedule, "root") == ["I_0:4", "J:6", "i_1:2", "j_unit:1", "k:4"]
    program.check(module)


def test_marks_stay_with_their_loops() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    schedule.tile("root", [2, 3])
    schedule.parallel("root.i_0")
    schedule.reorder("root.j_0", "root.i_0")
    schedule.split("root.i_0", [None, 2])
    marked = [
        x.name for x in schedule.loops("root") if x.op and "mlcflow.parallel" in x.op.attributes
    ]
    assert marked == ["i_0_0"]


def test_parallel_and_bind_refuse() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "root.k is a reduction" in refused(schedule, "parallel", "root.k")
    assert "root.k is a reduction" in refused(schedule, "bind", "root.k", "block.x")
    assert "unknown axis 'block.w'; did you mean" in refused(schedule, "bind", "root.i", "block.w")
    schedule.bind("root.i", "block.x")
    assert "root.i is bound to block.x already" in refused(schedule, "bind", "root.j", "block.x")


def test_annotate_sets_an_attribute() -> None:
    program = elementwise(4, 6)
    module, schedule = program.schedule()
    schedule.annotate("root", "note", "hot")
    assert ir.StringAttr(schedule.block("root").attributes["mlcflow.note"]).value == "hot"
    assert "'mlcflow.block' is what schedules" in refused(
        schedule, "annotate", "root", "block", "other"
    )
    assert "unknown block 'rot'" in refused(schedule, "annotate", "rot", "note", "hot")
    program.check(module)
