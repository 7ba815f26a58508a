"""Results that are written over an argument: only where nobody can tell."""

from __future__ import annotations

import pytest
import torch

import mlcflow
from mlcflow import mlir
from mlcflow.graph.in_place import overwritable
from mlcflow.mlir import func

M = "memref<32x64xf32>"
READ = "%v = vector.transfer_read %x[{at}], %zero {{in_bounds = [true]}} : {m}, vector<16xf32>"
WRITE = "vector.transfer_write %v, %y[{at}] {{in_bounds = [true]}} : vector<16xf32>, {m}"


def vectors(*body: str, step: int = 16) -> str:
    """A kernel over rows and vectors of 16."""
    lines = "\n".join(body)
    return f"""
    func.func private @k(%x: {M}, %y: {M}) {{
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c32 = arith.constant 32 : index
      %c64 = arith.constant 64 : index
      %step = arith.constant {step} : index
      %zero = arith.constant 0.0 : f32
      scf.for %i = %c0 to %c32 step %c1 {{
        scf.for %j = %c0 to %c64 step %step {{
          {lines}
        }}
      }}
      return
    }}"""


def read(at: str) -> str:
    return READ.format(at=at, m=M)


def write(at: str) -> str:
    return WRITE.format(at=at, m=M)


GENERIC = """
func.func private @k(%x: memref<32x32xf32>, %y: memref<32x32xf32>) {{
  linalg.generic {{indexing_maps = [affine_map<(i, j) -> ({map})>, affine_map<(i, j) -> (i, j)>],
                   iterator_types = ["parallel", "parallel"]}}
      ins(%x : memref<32x32xf32>) outs(%y : memref<32x32xf32>) {{
  ^bb0(%v: f32, %o: f32):
    %w = arith.addf %v, %v : f32
    linalg.yield %w : f32
  }}
  return
}}
"""
TILES = """
func.func private @k(%x: memref<32x64xf32>, %y: memref<32x64xf32>) {{
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %c32 = arith.constant 32 : index
  %zero = arith.constant 0.0 : f32
  scf.for %i = %c0 to %c32 step %c8 {{
    %s = memref.subview %x[{at}, 0] [8, 64] [1, 1]
        : memref<32x64xf32> to memref<8x64xf32, strided<[64, 1], offset: {offset}>>
    %t = memref.subview %y[%i, 0] [8, 64] [1, 1]
        : memref<32x64xf32> to memref<8x64xf32, strided<[64, 1], offset: ?>>
    %v = vector.transfer_read %s[%c0, %c0], %zero {{in_bounds = [true, true]}}
        : memref<8x64xf32, strided<[64, 1], offset: {offset}>>, vector<8x64xf32>
    vector.transfer_write %v, %t[%c0, %c0] {{in_bounds = [true, true]}}
        : vector<8x64xf32>, memref<8x64xf32, strided<[64, 1], offset: ?>>
  }}
  return
}}
"""

MAY = {
    "elementwise": vectors(read("%i, %j"), write("%i, %j")),
    "element by element": GENERIC.format(map="i, j"),
    "tiles": TILES.format(at="%i", offset="?"),
}
MAY_NOT = {
    "tiles that overlap": vectors(read("%i, %j"), write("%i, %j"), step=8),
    "the same tile again and again": vectors(read("%i, %c0"), write("%i, %c0")),
    "another element": vectors(read("%j, %i"), write("%i, %j")),
    "writes first": vectors(
        "%v = arith.constant dense<1.0> : vector<16xf32>",
        write("%i, %j"),
        read("%i, %j").replace("%v", "%w"),
    ),
    "a start that moves in another way": vectors(
        "%m = affine.min affine_map<(j) -> (j, 40)>(%j)", read("%i, %m"), write("%i, %m")
    ),
    "reads twice": vectors(read("%i, %j"), read("%i, %c0").replace("%v", "%w"), write("%i, %j")),
    "writes twice": vectors(read("%i, %j"), write("%i, %j"), write("%i, %c0")),
    "transposed": GENERIC.format(map="j, i"),
    "tiles from elsewhere": TILES.format(at="0", offset="0"),
}


def pairs(text: str) -> set[tuple[int, int]]:
    module = mlir.parse(text)
    (kernel,) = module.body.operations
    assert isinstance(kernel, func.FuncOp)
    return overwritable(kernel)


@pytest.mark.parametrize("name", MAY)
def test_may(name: str) -> None:
    assert pairs(MAY[name]) == {(0, 1)}


@pytest.mark.parametrize("name", MAY_NOT)
def test_may_not(name: str) -> None:
    assert pairs(MAY_NOT[name]) == set()


def attention(x: torch.Tensor) -> torch.Tensor:
    """Rows of weights that are changed step by step, each reading a reduction of the last."""
    weights = torch.softmax(x @ x.T, -1)
    weights = weights * weights.sum(0)
    weights = torch.tanh(weights) + weights.max(0).values
    return (weights / weights.sum(-1, keepdim=True)) @ x


@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_model(threads: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(96, 64)
    target = mlcflow.Target.host()
    if threads > target.cores:
        pytest.skip("needs two cores")
    exe = mlcflow.compile(attention, x, threads=threads)
    over = [buffer for buffer in exe.memory().buffers if buffer.in_place]
    assert over, "nothing is written in place"
    assert "in place" in str(exe.memory())
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(96, 64)
        torch.testing.assert_close(exe(x), attention(x), rtol=1e-4, atol=1e-5)
