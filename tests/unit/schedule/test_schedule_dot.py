"""The primitive that maps a block to dot product instructions of x86 processors."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from dot_programs import BF16, I8, WIDTH, Product, needs
from schedule_programs import count, linear_relu, refused

from mlcflow import Target, mlir
from mlcflow.errors import LoweringError
from mlcflow.graph.dots import lower_dots
from mlcflow.mlir import ir, walk
from mlcflow.report import assembly
from mlcflow.schedule.apply import apply_schedule
from mlcflow.schedule.program import load_program, run_reference
from mlcflow.schedule.schedule import Schedule
from mlcflow.schedule.trace import replay

DOT = {BF16: "x86.avx512.dot", I8: "x86.avx10.dot.i8"}
HASWELL = Target.parse("cpu:haswell")
both = pytest.mark.parametrize("kind", [BF16, I8])
instructions = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs[kind]) for kind in (BF16, I8)]
)


def tiled(kind: str, *, is_packed: bool = False) -> tuple[Product, ir.Module, Schedule]:
    """A product in tiles of 2 x 32, two dot products deep, accumulators in registers."""
    program = Product(kind, 8, 64, 32)
    module, schedule = program.schedule()
    if is_packed:
        schedule.pack("root", [0, 0, WIDTH[kind]])
    schedule.tile("root", [2, 32])
    inside = [loop for loop in schedule.loops("root") if loop.op is None]
    schedule.split(inside[2], [None, 2 if is_packed else 2 * WIDTH[kind]])
    schedule.tensorize("root", "x86.dot")
    schedule.hoist()
    return program, module, schedule


@both
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_tile_becomes_dot_products(kind: str, is_packed: bool) -> None:
    program, module, schedule = tiled(kind, is_packed=is_packed)
    assert "root" not in schedule.blocks()
    assert count(schedule, DOT[kind]) == 2 * 2 * 2  # rows, registers of columns, steps
    assert count(schedule, "vector.contract") == 0
    unpacked = {BF16: 4, I8: 12}  # for two registers of columns, in two steps
    assert count(schedule, "vector.interleave") == (0 if is_packed else unpacked[kind])
    carried = {str(result.type) for op in walk(schedule.function) for result in op.results}
    assert f"vector<2x32x{'f32' if kind == BF16 else 'i32'}>" in carried
    again = mlir.parse(mlir.asm(module))  # it prints, parses and verifies
    program.check(again, reference=True)


@instructions
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_instructions_compute_the_same(kind: str, is_packed: bool) -> None:
    program, module, _ = tiled(kind, is_packed=is_packed)
    program.check(module, reference=False)


@instructions
def test_the_machine_code_has_them(kind: str) -> None:
    _, module, _ = tiled(kind, is_packed=True)
    loop = assembly.hot_loop(assembly.find(load_program(module), "main"))
    mnemonics = [line.split()[0] for line in loop.text.splitlines()]
    if kind == BF16:
        assert mnemonics.count("vdpbf16ps") == 8
    else:  # and one for each register of columns: the sum of its elements
        assert sum(name.startswith("vpdpbusd") for name in mnemonics) == 8 + 4
    assert loop.spills == 0


@both
@pytest.mark.parametrize(
    ("m", "n", "steps"), [(1, 16, 1), (3, 8, 2), (2, 4, 3), (5, 24, 1), (0, 32, 2), (3, 20, 1)]
)
def test_sizes(kind: str, m: int, n: int, steps: int) -> None:
    """Registers of 16, 8 and 4 lanes; one row without a loop for it."""
    program = Product(kind, m, n, steps * WIDTH[kind])
    module, schedule = program.schedule()
    schedule.tensorize("root", "x86.dot")
    lanes = next(lanes for lanes in (16, 8, 4) if n % lanes == 0)
    assert str(schedule).count("x86.av") == max(1, m) * n // lanes * steps
    program.check(module, reference=True)
    if not needs[kind].args[0]:
        program.check(module, reference=False)


@both
def test_the_trace_replays(kind: str) -> None:
    program, _, schedule = tiled(kind, is_packed=True)
    _, other = program.schedule()
    replay(schedule.trace.to_json(), other)
    assert str(other) == str(schedule)
    third = mlir.parse(program.text)
    apply_schedule(third, schedule.trace.to_mlir())
    assert str(third).count(DOT[kind]) == count(schedule, DOT[kind])
    program.check(third, reference=True)
    assert "sch.tensorize(block='root', intrinsic='x86.dot')" in str(schedule.trace)


def test_refuses() -> None:
    _, schedule = linear_relu(4, 16, 6).schedule()
    wrong = refused(schedule, "tensorize", "root", "x86.dot")
    assert "'root' cannot be x86.dot: it multiplies f32 and f32 into f32; expected bf16" in wrong
    wrong = refused(schedule, "tensorize", "final", "x86.dot")
    assert "linalg.generic is no contraction" in wrong
    wrong = refused(schedule, "tensorize", "root", "x86.dt")
    assert "unknown intrinsic 'x86.dt'; did you mean 'x86.dot'?" in wrong
    for program, expected in (
        (Product(BF16, 4, 16, 3), "its reduction has 3 iterations; expected a multiple of 2: pad"),
        (Product(I8, 4, 16, 6), "its reduction has 6 iterations; expected a multiple of 4: pad"),
        (Product(BF16, 4, 6, 4), "it has 6 columns; expected a multiple of 4"),
        (Product(BF16, 64, 64, 64), "it would be 8192 instructions, more than 1024; split"),
    ):
        _, schedule = program.schedule()
        assert expected in refused(schedule, "tensorize", "root", "x86.dot")


def test_refuses_layouts() -> None:
    _, schedule = Product(BF16, 4, 16, 8).schedule()
    schedule.pack("root", [0, 0, 4])
    wrong = refused(schedule, "tensorize", "root", "x86.dot")
    assert "4 elements along k lie together; expected 2: pack it by 2" in wrong
    turned = """
func.func @main(%a: tensor<4x8xbf16>, %b: tensor<16x8xbf16>, %c: tensor<4x16xf32>)
    -> tensor<4x16xf32> {
  %r = linalg.contract indexing_maps = [affine_map<(m, n, k) -> (m, k)>,
      affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>]
      ins(%a, %b : tensor<4x8xbf16>, tensor<16x8xbf16>)
      outs(%c : tensor<4x16xf32>) -> tensor<4x16xf32>
  return %r : tensor<4x16xf32>
}"""
    wrong = refused(Schedule(mlir.parse(turned)), "tensorize", "root", "x86.dot")
    assert "it reads A[d0, d2] and B[d1, d2] into C[d0, d1]; expected A[m, k] and B[k, n]" in wrong


BATCH = """
func.func @main(%x: tensor<3x2x8xbf16>, %y: tensor<3x8x16xbf16>, %z: tensor<3x2x16xf32>)
    -> tensor<3x2x16xf32> {
  %r = linalg.batch_matmul ins(%x, %y : tensor<3x2x8xbf16>, tensor<3x8x16xbf16>)
                           outs(%z : tensor<3x2x16xf32>) -> tensor<3x2x16xf32>
  return %r : tensor<3x2x16xf32>
}"""
DOT_OF_VECTORS = """
func.func @main(%x: tensor<8xbf16>, %y: tensor<8xbf16>, %z: tensor<f32>) -> tensor<f32> {
  %r = linalg.dot ins(%x, %y : tensor<8xbf16>, tensor<8xbf16>)
                  outs(%z : tensor<f32>) -> tensor<f32>
  return %r : tensor<f32>
}"""


@pytest.mark.parametrize("is_packed", [False, True])
def test_one_product_of_a_batch(is_packed: bool) -> None:
    module = mlir.parse(BATCH)
    schedule = Schedule(module)
    if is_packed:
        schedule.pack("root", [0, 0, 0, 2])
    assert "it computes a batch of 3; split" in refused(schedule, "tensorize", "root", "x86.dot")
    schedule.tile("root", [1])
    schedule.tensorize("root", "x86.dot")
    assert count(schedule, "x86.avx512.dot") == 2 * 4
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(shape) for shape in ((3, 2, 8), (3, 8, 16)))
    x, y = x.astype(ml_dtypes.bfloat16), y.astype(ml_dtypes.bfloat16)
    (got,) = run_reference(module, [x, y, np.ones((3, 2, 16), np.float32)])
    wide, other = x.astype(np.float64), y.astype(np.float64)
    assert np.all(abs(got - 1 - wide @ other) <= 9 * 2.0**-24 * (1 + abs(wide) @ abs(other)))


def test_refuses_one_number() -> None:
    wrong = refused(Schedule(mlir.parse(DOT_OF_VECTORS)), "tensorize", "root", "x86.dot")
    assert "it computes one number; expected a row of them at least" in wrong


def test_refuses_unsigned_numbers() -> None:
    text = Product(I8, 4, 16, 8).text.replace(
        "linalg.matmul ins", "linalg.matmul {cast = #linalg.type_fn<cast_unsigned>} ins"
    )
    wrong = refused(Schedule(mlir.parse(text)), "tensorize", "root", "x86.dot")
    assert "it computes with arith.extui; expected a sum of products of signed numbers" in wrong


@both
def test_a_target_without_them_is_refused(kind: str) -> None:
    feature = {BF16: "avx512bf16", I8: "avx10.2 or avx512vnni or avxvnniint8 or avxvnni"}[kind]
    expected = f"dot products of {kind} need {feature}, which target cpu:haswell lacks"
    module, schedule = Product(kind, 2, 16, 8).schedule()
    assert expected in refused(schedule, "tensorize", "root", "x86.dot", HASWELL)
    schedule.tensorize("root", "x86.dot", replace(HASWELL, features=("avx512bf16", "avxvnni")))
    with pytest.raises(LoweringError) as caught:
        load_program(module, HASWELL)
    assert expected in str(caught.value) and caught.value.stage == "vectors"
    assert caught.value.step == "lower_dot_products"


def lowered(features: tuple[str, ...]) -> ir.Module:
    """Dot products of i8, of 16 lanes, as a target with ``features`` has them."""
    _, module, _ = tiled(I8)
    with module.context, ir.Location.unknown():
        lower_dots(replace(HASWELL, features=features))(module)
    module.operation.verify()
    return module


@pytest.mark.parametrize(
    ("features", "name", "times"),
    [
        (("avx10.2", "avx512vnni"), "x86.avx10.dot.i8", 8),
        (("avx512vnni", "avxvnni"), "llvm.x86.avx512.vpdpbusd.512", 8 + 4),
        (("avxvnniint8", "avxvnni"), "x86.avx.dot.i8", 16),
        (("avxvnni",), "llvm.x86.avx512.vpdpbusd.256", 16 + 8),
    ],
)
def test_i8_takes_what_the_target_has(features: tuple, name: str, times: int) -> None:
    text = str(lowered(features))
    assert text.count(name) == times
    assert text.count(".dot.i8") + text.count("vpdpbusd") == times


@needs[I8]
@pytest.mark.parametrize("feature", ["avx512vnni", "avxvnni"])
def test_unsigned_instructions_compute_signed_products(feature: str) -> None:
    host = Target.host()
    if feature not in host.features:
        pytest.skip(f"needs {feature}")
    program, module, _ = tiled(I8)
    program.check(module, target=replace(host, features=(feature,)), reference=False)
