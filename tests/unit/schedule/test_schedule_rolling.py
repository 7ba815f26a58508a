"""Softmax a part of each row at a time."""

from __future__ import annotations

import numpy as np
import pytest
from schedule_programs import Array, Program

from mlcflow.errors import ScheduleError
from mlcflow.mlir import scf, walk

ROWS, KEYS, WIDTH = 4, 12, 3


def attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    scores = q @ k.T + mask
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers @ v / powers.sum(-1, keepdims=True)


PROGRAM = Program(
    f"""
#ij = affine_map<(i, j) -> (i, j)>
#i = affine_map<(i, j) -> (i)>
func.func @main(%q: tensor<{ROWS}x{WIDTH}xf32>, %k: tensor<{KEYS}x{WIDTH}xf32>,
                %v: tensor<{KEYS}x2xf32>, %mask: tensor<{ROWS}x{KEYS}xf32>) -> tensor<{ROWS}x2xf32> {{
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %s = tensor.empty() : tensor<{ROWS}x{KEYS}xf32>
  %r = tensor.empty() : tensor<{ROWS}xf32>
  %o = tensor.empty() : tensor<{ROWS}x2xf32>
  %s0 = linalg.fill ins(%zero : f32) outs(%s : tensor<{ROWS}x{KEYS}xf32>) -> tensor<{ROWS}x{KEYS}xf32>
  %scores = linalg.generic {{indexing_maps = [affine_map<(i, j, d) -> (i, d)>, affine_map<(i, j, d) -> (j, d)>, affine_map<(i, j, d) -> (i, j)>], iterator_types = ["parallel", "parallel", "reduction"]}} ins(%q, %k : tensor<{ROWS}x{WIDTH}xf32>, tensor<{KEYS}x{WIDTH}xf32>) outs(%s0 : tensor<{ROWS}x{KEYS}xf32>) {{
  ^bb0(%a: f32, %b: f32, %c: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %c, %p : f32
    linalg.yield %t : f32
  }} -> tensor<{ROWS}x{KEYS}xf32>
  %masked = linalg.generic {{indexing_maps = [#ij, #ij, #ij], iterator_types = ["parallel", "parallel"]}} ins(%scores, %mask : tensor<{ROWS}x{KEYS}xf32>, tensor<{ROWS}x{KEYS}xf32>) outs(%s : tensor<{ROWS}x{KEYS}xf32>) {{
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.addf %a, %b : f32
    linalg.yield %t : f32
  }} -> tensor<{ROWS}x{KEYS}xf32>
  %r0 = linalg.fill ins(%lowest : f32) outs(%r : tensor<{ROWS}xf32>) -> tensor<{ROWS}xf32>
  %largest = linalg.generic {{indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]}} ins(%masked : tensor<{ROWS}x{KEYS}xf32>) outs(%r0 : tensor<{ROWS}xf32>) {{
  ^bb0(%a: f32, %c: f32):
    %t = arith.maximumf %a, %c : f32
    linalg.yield %t : f32
  }} -> tensor<{ROWS}xf32>
  %powers = linalg.generic {{indexing_maps = [#ij, #i, #ij], iterator_types = ["parallel", "parallel"]}} ins(%masked, %largest : tensor<{ROWS}x{KEYS}xf32>, tensor<{ROWS}xf32>) outs(%s : tensor<{ROWS}x{KEYS}xf32>) {{
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.subf %a, %b : f32
    %e = math.exp %t : f32
    linalg.yield %e : f32
  }} -> tensor<{ROWS}x{KEYS}xf32>
  %r1 = linalg.fill ins(%zero : f32) outs(%r : tensor<{ROWS}xf32>) -> tensor<{ROWS}xf32>
  %sums = linalg.generic {{indexing_maps = [#ij, #i], iterator_types = ["parallel", "reduction"]}} ins(%powers : tensor<{ROWS}x{KEYS}xf32>) outs(%r1 : tensor<{ROWS}xf32>) {{
  ^bb0(%a: f32, %c: f32):
    %t = arith.addf %a, %c : f32
    linalg.yield %t : f32
  }} -> tensor<{ROWS}xf32>
  %o0 = linalg.fill ins(%zero : f32) outs(%o : tensor<{ROWS}x2xf32>) -> tensor<{ROWS}x2xf32>
  %product = linalg.matmul ins(%powers, %v : tensor<{ROWS}x{KEYS}xf32>, tensor<{KEYS}x2xf32>) outs(%o0 : tensor<{ROWS}x2xf32>) -> tensor<{ROWS}x2xf32>
  %result = linalg.generic {{indexing_maps = [#i, #ij, #ij], iterator_types = ["parallel", "parallel"]}} ins(%sums, %product : tensor<{ROWS}xf32>, tensor<{ROWS}x2xf32>) outs(%o : tensor<{ROWS}x2xf32>) {{
  ^bb0(%a: f32, %b: f32, %c: f32):
    %t = arith.divf %b, %a : f32
    linalg.yield %t : f32
  }} -> tensor<{ROWS}x2xf32>
  return %result : tensor<{ROWS}x2xf32>
}}""",
    ((ROWS, WIDTH), (KEYS, WIDTH), (KEYS, 2), (ROWS, KEYS)),
    attention,
)


class Masked(Program):
    """The same, where a row has its keys in the second part alone, and another none at all."""

    def inputs(self) -> list[Array]:
        *others, mask = super().inputs()
        mask[1, :6], mask[2] = -np.inf, -np.inf
        return [*others, mask]


@pytest.mark.parametrize("size", [6, 5, 1, KEYS])
def test_parts_of_rows(size: int) -> None:
    """Also where the last part is shorter: what it has in common with another counts once."""
    program = Masked(PROGRAM.text, PROGRAM.shapes, PROGRAM.expected)
    module, schedule = program.schedule()
    loop = schedule.rolling_update("root", size)
    assert loop.is_gone == (size == KEYS)
    loops = [op for op in walk(schedule.function) if isinstance(op, scf.ForOp)]
    assert [len(list(op.results)) for op in loops] == ([] if size == KEYS else [3])
    program.check(module)


def test_a_schedule_that_is_written_down() -> None:
    module, schedule = PROGRAM.schedule()
    schedule.rolling_update("root", 4)
    assert "schedule.rolling_update" in str(schedule.trace.to_mlir())
    assert '"size": 4' in schedule.trace.to_json()
    PROGRAM.check(module)


@pytest.mark.parametrize(
    ("block", "size", "message"),
    [("root", 13, "rows of 12 scores, got parts of 13"), ("root", 0, "got parts of 0"),
     ("final", 4, "expected the loops of one matrix product"), ("roots", 4, "did you mean")],
)  # fmt: skip
def test_what_it_refuses(block: str, size: int, message: str) -> None:
    _, schedule = PROGRAM.schedule()
    before = str(schedule)
    with pytest.raises(ScheduleError, match=message):
        schedule.rolling_update(block, size)
    assert str(schedule) == before
