"""The one door to MLIR."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlcflow import mlir

TEXT = """
module attributes {mlcflow.note = "kept"} {
  func.func @main(%x: f32) -> f32 {
    %y = scf.execute_region -> f32 {
      %z = arith.addf %x, %x : f32
      scf.yield %z : f32
    }
    return %y : f32
  }
}
"""


def test_walk_lists_outer_before_inner() -> None:
    names = [op.operation.name for op in mlir.walk(mlir.parse(TEXT).operation)]
    assert names == ["func.func", "scf.execute_region", "arith.addf", "scf.yield", "func.return"]


def test_clone_is_deep_and_keeps_attributes() -> None:
    module = mlir.parse(TEXT)
    copy = mlir.clone(module)
    assert mlir.asm(copy) == mlir.asm(module)
    copy.body.operations[0].operation.erase()
    assert "func.func" in mlir.asm(module) and "func.func" not in mlir.asm(copy)


def test_text_goes_round_with_and_without_locations() -> None:
    module = mlir.parse(TEXT)
    for locations in (False, True):
        text = mlir.asm(module, locations=locations)
        assert mlir.asm(mlir.parse(text), locations=locations) == text
    assert "loc(" in mlir.asm(module, locations=True)
    assert "loc(" not in mlir.asm(module)


def test_bytecode(tmp_path: Path) -> None:
    module = mlir.parse(TEXT)
    path = tmp_path / "module.mlirbc"
    with path.open("wb") as file:
        module.operation.write_bytecode(file)
    assert mlir.asm(mlir.parse(path.read_bytes())) == mlir.asm(module)
    assert mlir.asm(mlir.parse_file(path)) == mlir.asm(module)


def test_invalid_text_tells_where() -> None:
    with pytest.raises(mlir.ir.MLIRError) as raised:
        mlir.parse("func.func @main() { return %x : f32 }")
    assert "undeclared" in raised.value.error_diagnostics[0].message


def test_invalid_operations_are_refused() -> None:
    with pytest.raises(mlir.ir.MLIRError):
        mlir.parse("func.func @main(%x: f32) -> f64 { return %x : f32 }")


def test_a_context_knows_torch_stablehlo_and_our_dialects() -> None:
    ctx = mlir.context()
    for text in (
        "func.func @f(%x: !torch.int) -> !torch.int { return %x : !torch.int }",
        "func.func @f(%x: tensor<f32>) -> tensor<f32> {"
        " %0 = stablehlo.abs %x : tensor<f32> return %0 : tensor<f32> }",
        'func.func @f(%x: tensor<f32> {mlcflow.input = "x"}) { return }',
    ):
        assert mlir.parse(text, ctx).operation.verify()
