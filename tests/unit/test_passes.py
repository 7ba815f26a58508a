"""Passes as data."""

from __future__ import annotations

import pytest

from mlcflow import Pass, mlir


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Pass("cse"), "cse"),
        (Pass("cse", on="func.func"), "func.func(cse)"),
        (Pass("inline", inlining_threshold=3), "inline{inlining-threshold=3}"),
        (Pass("canonicalize", top_down=True, max_iterations=-1),
         "canonicalize{top-down=1 max-iterations=-1}"),
        (Pass("canonicalize", disable_patterns=("a", "b"), top_down=False),
         "canonicalize{disable-patterns=a,b top-down=0}"),
    ],
)  # fmt: skip
def test_text(step: Pass, text: str) -> None:
    assert str(step) == text
    with mlir.context():
        step.manager()  # MLIR takes it


def test_values() -> None:
    assert Pass("inline", inlining_threshold=3) == Pass("inline", inlining_threshold=3)
    assert Pass("inline") != Pass("inline", on="func.func")
    assert len({Pass("cse"), Pass("cse"), Pass("inline")}) == 2
    with pytest.raises(AttributeError):
        Pass("cse").name = "inline"  # type: ignore[misc]


@pytest.mark.parametrize("step", [Pass("no-such-pass"), Pass("cse", no_such_option=1)])
def test_unknown_passes_and_options(step: Pass) -> None:
    with mlir.context(), pytest.raises(ValueError, match="no-such"):
        step.manager()


def test_running_changes_the_module() -> None:
    module = mlir.parse(
        "func.func @main() -> i32 { %0 = arith.constant 1 : i32 %1 = arith.addi %0, %0 : i32"
        " return %1 : i32 }"
    )
    Pass("canonicalize")(module)
    text = mlir.asm(module)
    assert "arith.addi" not in text and "constant 2" in text


def test_a_failing_pass_raises_with_diagnostics() -> None:
    module = mlir.parse(
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {"
        " %0 = stablehlo.abs %x : tensor<2xf32> return %0 : tensor<2xf32> }"
    )
    with pytest.raises(mlir.ir.MLIRError) as raised:
        Pass("one-shot-bufferize")(module)
    assert "was not bufferized" in raised.value.error_diagnostics[0].message
