"""The memory of a call: the plan, what it costs, and what it tells."""

from __future__ import annotations

import json

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import mlcflow
from mlcflow import MlcflowError, mlir
from mlcflow.graph.arena import Interval, lower_bound, place
from mlcflow.graph.memory import PLAN, plan_memory
from mlcflow.mlir import func, ir, memref, walk

intervals = st.lists(
    st.builds(
        lambda size, first, length: Interval(64 * size, first, first + length),
        st.integers(1, 40),
        st.integers(0, 12),
        st.integers(0, 6),
    ),
    max_size=24,
)


@hypothesis.given(intervals)
@hypothesis.settings(max_examples=200)
def test_buffers_that_are_alive_together_lie_apart(buffers: list[Interval]) -> None:
    offsets, total = place(buffers)
    places = list(zip(buffers, offsets, strict=True))
    assert all(at >= 0 and at + b.size <= total and at % 64 == 0 for b, at in places)
    for index, (a, at) in enumerate(places):
        for b, bt in places[:index]:
            together = a.first <= b.last and b.first <= a.last
            assert not together or at + a.size <= bt or bt + b.size <= at
    alive = [sum(b.size for b in buffers if b.first <= t <= b.last) for t in range(20)]
    assert lower_bound(buffers) == max(alive) <= total


def test_what_is_alive_when_most_is_comes_first() -> None:
    """The largest first would take 7 units here."""
    sizes = [(2, 4, 5), (3, 2, 2), (1, 0, 3), (2, 3, 6), (2, 2, 3)]
    buffers = [Interval(64 * size, first, last) for size, first, last in sizes]
    assert place(buffers)[1] == lower_bound(buffers) == 6 * 64


def mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)]
    layers += [torch.nn.ReLU(), torch.nn.Linear(512, 10)]
    return torch.nn.Sequential(*layers).eval(), torch.randn(32, 784)


def test_an_mlp() -> None:
    model, x = mlp()
    exe = mlcflow.compile(model, x)
    found = exe.memory()
    assert found.weights == 4 * sum(p.numel() for p in model.parameters())
    assert (found.inputs, found.results) == (x.nbytes, 32 * 10 * 4)
    assert found.prepared > 0
    hidden = 2 * 32 * 512 * 4
    values = [buffer for buffer in found.buffers if not buffer.scratch]
    assert sum(buffer.bytes for buffer in values) == hidden
    assert hidden <= found.lower_bound <= found.arena
    assert all(b.offset >= 0 and b.offset + b.bytes <= found.arena for b in found.buffers)
    assert found.allocations == ()
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        "weights", "prepared", "inputs", "results", "arena"
    ]  # fmt: skip
    assert any("<32x512xf32>" in line and "matmul" in line for line in lines)
    assert json.loads(found.to_json())["arena"] == found.arena


def test_no_kernel_of_an_mlp_allocates() -> None:
    model, x = mlp()
    exe = mlcflow.compile(model, x)
    for function in exe.stages["bufferize"].body.operations:
        if isinstance(function, func.FuncOp) and function.name.value != "prepare":
            assert not [op for op in walk(function) if isinstance(op, memref.AllocOp)]


SUM = """
func.func @main(%x: tensor<64x1000xf32>) -> tensor<64xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<64xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<64xf32>) -> tensor<64xf32>
  %y = linalg.generic {
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
      iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<64x1000xf32>) outs(%f : tensor<64xf32>) {
  ^bb0(%v: f32, %s: f32):
    %t = arith.addf %v, %s : f32
    linalg.yield %t : f32
  } -> tensor<64xf32>
  return %y : tensor<64xf32>
}
"""


def test_what_has_an_open_size_is_allocated_at_each_call() -> None:
    exe = mlcflow.compile(torch.nonzero, torch.ones(64))
    found = exe.memory()
    assert found.allocations and "?" in found.allocations[0].type
    assert "allocated at each call" in str(found) and found.allocations[0].type[6:] in str(found)


CALLS = """
func.func private @k(memref<16xf32>, memref<16xf32>)
func.func @main(%x: memref<16xf32> {mlcflow.input = "x"},
                %y: memref<16xf32> {mlcflow.output = "y"}) {
  %a = memref.alloc() : memref<16xf32>
  %b = memref.alloc() : memref<16xf32>
  %c = memref.alloc() : memref<16xf32>
  call @k(%x, %a) : (memref<16xf32>, memref<16xf32>) -> ()
  %v = memref.cast %a : memref<16xf32> to memref<?xf32>
  call @k(%a, %b) : (memref<16xf32>, memref<16xf32>) -> ()
  call @k(%b, %c) : (memref<16xf32>, memref<16xf32>) -> ()
  %w = memref.cast %v : memref<?xf32> to memref<16xf32>
  call @k(%w, %c) : (memref<16xf32>, memref<16xf32>) -> ()
  call @k(%c, %y) : (memref<16xf32>, memref<16xf32>) -> ()
  return
}
"""


def test_a_buffer_lives_from_its_first_to_its_last_use() -> None:
    module = mlir.parse(CALLS)
    with module.context, ir.Location.unknown():
        plan_memory(module)
        module.operation.verify()
    plan = ir.DictAttr(module.operation.attributes[PLAN])
    buffers = [ir.DictAttr(each) for each in ir.ArrayAttr(plan["buffers"])]
    spans = [
        tuple(ir.IntegerAttr(each[key]).value for key in ("first", "last")) for each in buffers
    ]
    assert spans == [(0, 3), (1, 2), (2, 4)], "a view is an alias, and touches nothing"
    assert len(ir.ArrayAttr(plan["steps"])) == 5
    assert ir.IntegerAttr(plan["arena"]).value == 3 * 64


def test_the_reference_pipeline_has_no_plan() -> None:
    with pytest.raises(MlcflowError, match="'reference' has no step 'plan_memory'"):
        mlcflow.compile(SUM, pipeline="reference").memory()
