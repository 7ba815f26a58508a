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


def generic(maps: str, kinds: str, inputs: str, start: str, body: str) -> str:
    names = ", ".join(f'"{kind}"' for kind in kinds.split())
    return f"""linalg.generic {{indexing_maps = [{maps}], iterator_types = [{names}]}}
    ins({inputs}) outs({start}) {{
{body}
    linalg.yield %y : f32
  }} -> {start.split(" : ")[1]}"""


S, R, OUT = f"tensor<{ROWS}x{KEYS}xf32>", f"tensor<{ROWS}xf32>", f"tensor<{ROWS}x2xf32>"
Q, K, V = (f"tensor<{n}xf32>" for n in (f"{ROWS}x{WIDTH}", f"{KEYS}x{WIDTH}", f"{KEYS}x2"))
SCORES = "  ^bb0(%a: f32, %b: f32, %c: f32):\n    %p = arith.mulf %a, %b : f32\n"
SCORES += "    %y = arith.addf %c, %p : f32"
TWO = "  ^bb0(%a: f32, %b: f32, %c: f32):\n    %y = arith.{} %{}, %{} : f32"
ROW = "  ^bb0(%a: f32, %c: f32):\n    %y = arith.{} %a, %c : f32"
POWER = "  ^bb0(%a: f32, %b: f32, %c: f32):\n    %t = arith.subf %a, %b : f32\n"
POWER += "    %y = math.exp %t : f32"
BOTH = "parallel parallel"
PROGRAM = Program(
    f"""
#id = affine_map<(i, j, d) -> (i, d)>
#jd = affine_map<(i, j, d) -> (j, d)>
#ijd = affine_map<(i, j, d) -> (i, j)>
#ij = affine_map<(i, j) -> (i, j)>
#i = affine_map<(i, j) -> (i)>
func.func @main(%q: {Q}, %k: {K}, %v: {V}, %mask: {S}) -> {OUT} {{
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %s = tensor.empty() : {S}
  %r = tensor.empty() : {R}
  %o = tensor.empty() : {OUT}
  %s0 = linalg.fill ins(%zero : f32) outs(%s : {S}) -> {S}
  %scores = {generic("#id, #jd, #ijd", f"{BOTH} reduction", f"%q, %k : {Q}, {K}", f"%s0 : {S}", SCORES)}
  %masked = {generic("#ij, #ij, #ij", BOTH, f"%scores, %mask : {S}, {S}", f"%s : {S}", TWO.format("addf", "a", "b"))}
  %r0 = linalg.fill ins(%lowest : f32) outs(%r : {R}) -> {R}
  %largest = {generic("#ij, #i", "parallel reduction", f"%masked : {S}", f"%r0 : {R}", ROW.format("maximumf"))}
  %powers = {generic("#ij, #i, #ij", BOTH, f"%masked, %largest : {S}, {R}", f"%s : {S}", POWER)}
  %r1 = linalg.fill ins(%zero : f32) outs(%r : {R}) -> {R}
  %sums = {generic("#ij, #i", "parallel reduction", f"%powers : {S}", f"%r1 : {R}", ROW.format("addf"))}
  %o0 = linalg.fill ins(%zero : f32) outs(%o : {OUT}) -> {OUT}
  %product = linalg.matmul ins(%powers, %v : {S}, {V}) outs(%o0 : {OUT}) -> {OUT}
  %result = {generic("#i, #ij, #ij", BOTH, f"%sums, %product : {R}, {OUT}", f"%o : {OUT}", TWO.format("divf", "b", "a"))}
  return %result : {OUT}
}}""",  # noqa: E501
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
