"""Primitives that decide where data lies."""

from __future__ import annotations

import pytest
from schedule_programs import (
    batch_matmul,
    convolution,
    count,
    elementwise,
    linear_relu,
    matmul,
    names,
    reduction,
    refused,
)

from mlcflow import mlir
from mlcflow.schedule.schedule import Schedule


@pytest.mark.parametrize("inside", [False, True])
def test_cache_read(inside: bool) -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    if inside:
        schedule.split("root.i", [None, 2])
    name = schedule.cache_read("root", 0)
    assert name == "root_read0" and name in schedule.blocks()
    expected = ["I_0:4", "i:2", "j:4"] if inside else ["i:8", "j:4"]
    assert names(schedule, name) == expected
    assert schedule.cache_read("root", 0) == "root_read0x"
    program.check(module)


@pytest.mark.parametrize("overlap", [False, True])
def test_cache_read_of_panels(overlap: bool) -> None:
    program = linear_relu(8, 14 if overlap else 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [2, 4], order=[1, 0], overlap=overlap)
    name = schedule.cache_read("root", 1, panels="root.j_0")
    assert names(schedule, name) == [f"J_0:{4 if overlap else 3}", "i:6", "j:4"]
    program.check(module)
    schedule.vectorize()
    schedule.hoist()
    program.check(module, vectors=True)


def test_cache_read_of_turned_panels_of_a_named_product() -> None:
    program = linear_relu(8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("final", [2, 4], order=[1, 0])
    name = schedule.cache_read("root", 1, panels="root.j_0", permutation=[1, 0])
    assert names(schedule, name) == ["J_0:3", "i:4", "j:6"]
    program.check(module)


def test_cache_read_of_panels_ahead_of_an_outer_loop() -> None:
    """The rows outside, the columns inside: still each panel is copied once."""
    program = batch_matmul(3, 8, 12, 6)
    module, schedule = program.schedule()
    schedule.tile_and_fuse("root", [1, 2, 4])
    name = schedule.cache_read("root", 1, panels="root.k_0", ahead="root.j_0")
    assert names(schedule, name)[:2] == ["I_0:3", "K_0:3"]
    assert names(schedule, "root")[:3] == ["I_0:3", "J_0:4", "K_0:3"]
    program.check(module)
    wrong = refused(schedule, "cache_read", "root", 0, panels="root.j_0", ahead="root.k_0")
    assert "expected root.k_0 to be a loop around root.j_0" in wrong


def test_cache_read_of_panels_ahead_of_what_moves_them() -> None:
    _, schedule = batch_matmul(3, 8, 12, 6).schedule()
    schedule.tile_and_fuse("root", [1, 2, 4])
    wrong = refused(schedule, "cache_read", "root", 1, panels="root.k_0", ahead="root.i_0")
    assert "root.i_0, or a loop between it and root.k_0, moves operand 1" in wrong
    wrong = refused(schedule, "cache_read", "root", 1, ahead="root.i_0")
    assert "to copy ahead of root.i_0 needs panels" in wrong


def test_cache_read_of_panels_with_the_first_iteration_apart() -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    schedule.split("root.i", [None, 2])
    schedule.peel("root.i_0")
    wrong = refused(schedule, "cache_read", "root_first", 0, panels="root.i_0")
    assert "expected root.i_0 to be a loop around 'root_first'" in wrong
    schedule.cache_read("root", 0, panels="root.i_0")
    program.check(module)


def test_cache_read_of_panels_refuses() -> None:
    _, schedule = linear_relu(8, 12, 6).schedule()
    wrong = refused(schedule, "cache_read", "root", 1, panels="root.j")
    assert "expected root.j to be a loop around 'root'" in wrong
    schedule.tile_and_fuse("final", [2, 4])
    wrong = refused(schedule, "cache_read", "root", 1, panels="root.i_0")
    assert "a loop inside root.i_0 moves operand 1" in wrong
    wrong = refused(schedule, "cache_read", "final", 0, permutation=[1, 0])
    assert "a permutation needs panels" in wrong


def test_cache_read_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "'root' reads operands 0 to 1, got 2" in refused(schedule, "cache_read", "root", 2)
    assert "got 0" in refused(schedule, "cache_read", "fill0", 0)


@pytest.mark.parametrize("inside", [False, True])
def test_cache_write(inside: bool) -> None:
    program = linear_relu(8, 6, 4)
    module, schedule = program.schedule()
    if inside:
        schedule.tile("root", [2, 3, 2])
    name = schedule.cache_write("root")
    assert name == "root_write" and name in schedule.blocks()
    expected = ["I_0:4", "J_0:2", "K_0:2", "i:2", "j:3"] if inside else ["i:8", "j:6"]
    assert names(schedule, name) == expected
    program.check(module)


def test_cache_write_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "'fill0' must compute one result" in refused(schedule, "cache_write", "fill0")


def test_pack() -> None:
    program = matmul(8, 6, 4)
    module, schedule = program.schedule()
    schedule.pack("root", [4, 3, 2])
    assert [loop.extent for loop in schedule.loops("root")] == [2, 2, 2, 4, 3, 2]
    assert count(schedule, "linalg.pack") + count(schedule, "linalg.unpack") == 0
    assert count(schedule, "linalg.transpose") >= 3
    program.check(module)


def test_pack_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    wrong = refused(schedule, "pack", "root", [3, 0, 0])
    assert "root.i has 8 iterations, which 3 does not divide; pad it first" in wrong
    assert "no size above 0" in refused(schedule, "pack", "root", [0, 0])
    _, schedule = convolution(4, 2, 2, 4).schedule()
    assert "through a window" in refused(schedule, "pack", "root", [0, 2])


@pytest.mark.parametrize("inside", [False, True])
def test_pad(inside: bool) -> None:
    program = batch_matmul(2, 3, 5, 7)
    module, schedule = program.schedule()
    if inside:
        schedule.split("root.i", [None, 1])
    schedule.pad("root", [1, 4, 8, 4])
    assert [loop.extent for loop in schedule.loops("root")][-3:] == [4, 8, 8]
    schedule.split("root.j", [None, 4])
    program.check(module)


def test_pad_of_a_sum_and_of_an_elementwise_block() -> None:
    for program, multiples in [(reduction(5, 7, "sum"), [2, 4]), (elementwise(5, 7), [4, 4])]:
        module, schedule = program.schedule()
        schedule.pad("root", multiples)
        assert [loop.extent for loop in schedule.loops("root")] in ([6, 8], [8, 8])
        program.check(module)


@pytest.mark.parametrize("kind", ["max", "exp"])
def test_pad_refuses_zeros_that_count(kind: str) -> None:
    program = reduction(5, 7, kind)
    module, schedule = program.schedule()
    wrong = refused(schedule, "pad", "root", [1, 4])
    assert "zeros along the reduction loop j would change the result in 'root'" in wrong
    schedule.pad("root", [4, 1])
    program.check(module)


def test_pad_refuses() -> None:
    _, schedule = matmul(8, 6, 4).schedule()
    assert "no multiple above 1 in [1, 1, 0]" in refused(schedule, "pad", "root", [1, 1])
    _, schedule = convolution(3, 2, 2, 3).schedule()
    wrong = refused(schedule, "pad", "root", [1, 4])
    assert "loops that move through a window cannot be padded" in wrong


def test_pad_refuses_to_divide_by_its_zeros() -> None:
    maps = "affine_map<(i) -> (i)>"
    module = mlir.parse(f"""
func.func @main(%x: tensor<5xi32>, %y: tensor<5xi32>) -> tensor<5xi32> {{
  %e = tensor.empty() : tensor<5xi32>
  %r = linalg.generic {{indexing_maps = [{maps}, {maps}, {maps}], iterator_types = ["parallel"]}}
      ins(%x, %y : tensor<5xi32>, tensor<5xi32>) outs(%e : tensor<5xi32>) {{
  ^bb0(%a: i32, %b: i32, %o: i32):
    %1 = arith.divsi %a, %b : i32
    linalg.yield %1 : i32
  }} -> tensor<5xi32>
  return %r : tensor<5xi32>
}}""")
    assert "divided by the zeros" in refused(Schedule(module), "pad", "root", [4])
