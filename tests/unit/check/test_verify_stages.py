"""Every stage against float64: what agrees, what is off, and on which inputs."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import planted as bugs
import pytest
import torch
from click.testing import CliRunner
from planted import planted

from mlcflow import mlir
from mlcflow.check.agreement import worst_element
from mlcflow.check.harness import kernel_harness
from mlcflow.check.inputs import KINDS, make_arrays, uneven
from mlcflow.check.program import ports_of
from mlcflow.check.stages import verify_stages
from mlcflow.check.trusted import call, load_reference
from mlcflow.check.widen import widen
from mlcflow.compiler import build_pipeline, import_model
from mlcflow.runtime.interface import Port
from mlcflow.tools import main


def small_cnn() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 3)]
    return torch.nn.Sequential(*layers).eval(), torch.randn(1, 2, 4, 4)


def test_every_stage_of_a_right_pipeline_agrees() -> None:
    model, x = small_cnn()
    pipeline = build_pipeline("cpu")
    rows = verify_stages(import_model(model, (x,)), pipeline, inputs=[[x.numpy()]])
    assert [row.stage for row in rows] == ["import", *(stage.name for stage in pipeline.stages)]
    assert {row.status for row in rows} <= {"ok", "same"}
    by_name = {row.stage: row for row in rows}
    assert by_name["kernels"].kernels is not None and by_name["schedule"].kernels is not None
    checked = [row.model for row in rows if row.model]
    assert all(0 < finding.worst.ratio < 1 for finding in checked)


def test_a_stage_with_a_bug_is_wrong_and_so_are_those_after_it() -> None:
    model, x = torch.nn.Linear(12, 5), torch.randn(4, 12)
    pipeline = planted("kernels", bugs.dropped_epilogue)
    rows = verify_stages(import_model(model, (x,)), pipeline, inputs=[[x.numpy()]])
    status = {row.stage: row.status for row in rows}
    assert status["simplify"] == "ok" and status["kernels"] == "wrong"
    assert status["llvm"] == "wrong"


def test_a_stage_that_crashes_ends_the_table() -> None:
    softmax = torch.nn.Softmax(-1)
    x = torch.randn(2, 5)
    rows = verify_stages(import_model(softmax, (x,)), planted("schedule", bugs.crashes, 0))
    assert (rows[-1].stage, rows[-1].status) == ("schedule", "crashed")
    assert "step crashes" in rows[-1].message and "SIGABRT" in rows[-1].message


HALF = """
func.func @main(%x: tensor<4xf16>) -> tensor<4xf16> {
  %two = arith.constant dense<2.0> : tensor<4xf16>
  %wide = arith.extf %x : tensor<4xf16> to tensor<4xf32>
  %narrow = arith.truncf %wide : tensor<4xf32> to tensor<4xf16>
  %y = arith.mulf %narrow, %two : tensor<4xf16>
  return %y : tensor<4xf16>
}
"""


def test_widening_takes_all_rounding_away() -> None:
    module = mlir.parse(HALF)
    widen(module)
    assert module.operation.verify() and "f16" not in str(module) and "f32" not in str(module)
    x = np.array([1.0, 2.0**-30, 1e5, -3.1])
    np.testing.assert_array_equal(load_reference(module, {}, 0)(x), 2 * x)


def test_what_looks_at_bits_is_refused() -> None:
    text = """
    func.func @main(%x: tensor<2xf32>) -> tensor<2xi32> {
      %y = arith.bitcast %x : tensor<2xf32> to tensor<2xi32>
      return %y : tensor<2xi32>
    }
    """
    with pytest.raises(Exception, match="looks at the bits"):
        widen(mlir.parse(text))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("actual", "exact", "reference", "agrees", "skipped"),
    [
        ((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), True, 0),
        ((1.0, 2.1), (1.0, 2.0), (1.0, 2.0), False, 0),
        ((1.0, 2.001), (1.0, 2.0), (1.0, 2.001), True, 0),  # the reference is no better
        ((np.nan, 1.0), (np.nan, 1.0), (np.nan, 1.0), True, 0),
        ((0.0, 1.0), (np.nan, 1.0), (np.nan, 1.0), False, 0),
        ((np.nan, 1.0), (2.0, 1.0), (2.0, 1.0), False, 0),
        ((-np.inf, 1.0), (np.inf, 1.0), (np.inf, 1.0), False, 0),
        ((5.0, 1.0), (2.0, 1.0), (np.inf, 1.0), True, 1),  # f32 overflows, float64 does not
    ],
)
def test_agreement(actual, exact, reference, agrees: bool, skipped: int) -> None:
    worst = worst_element(f32(*actual), np.array(exact), np.array(reference))
    assert (worst.agrees, worst.skipped) == (agrees, skipped)


def test_agreement_of_whole_numbers_and_other_types() -> None:
    ones = np.array([1, 2])
    assert worst_element(ones, ones, ones).agrees
    assert worst_element(np.array([1, 3]), ones, ones).place == (1,)
    narrow = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert worst_element(narrow, np.array([1.001, 2.0]), narrow.astype(float)).agrees
    assert not worst_element(f32(1, 2), np.ones((2, 1)), np.ones((2, 1))).agrees


PORTS = [Port("input", "x", "float32", (3, 40)), Port("input", "ids", "int64", (5,))]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "example"])
def test_inputs_are_the_same_for_a_seed(kind: str) -> None:
    one, two, other = (make_arrays(PORTS, kind, seed) for seed in (0, 0, 1))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    if kind != "zeros":
        assert not np.array_equal(one[0], other[0], equal_nan=True)
    assert set(np.unique(one[1])) <= {0, 1}
    if kind == "special":
        assert np.isnan(one[0]).any() and np.isinf(one[0]).any() and np.isfinite(one[0]).any()
    if kind == "negative":
        assert (one[0] <= 0).all()


def test_indices_are_those_of_the_example() -> None:
    example = [np.zeros((3, 40), np.float32), np.array([3, 9, 3, 9, 9])]
    made = make_arrays(PORTS, "random", 0, example)
    assert set(made[1]) <= {3, 9}
    ids = make_arrays(PORTS[1:], "huge", 0, example[1:])
    assert ids is None  # whole numbers only: nothing that `random` does not have


def test_a_bias_of_zeros_gets_other_numbers() -> None:
    given = {"bias": torch.zeros(4), "weight": torch.ones(2, 2), "scale": np.ones(3, np.float32)}
    made = uneven(given, 0)
    assert np.asarray(made["bias"]).all() and made["weight"] is given["weight"]
    assert 0 < np.abs(made["scale"] - 1).max() < 0.5 and not given["bias"].any()


IN_PLACE = """
#map = affine_map<(i) -> (i)>
func.func @main(%x: tensor<4xf32> {mlcflow.input = "x"})
    -> (tensor<4xf32> {mlcflow.output = "y"}) {
  %y = func.call @add(%x, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %y : tensor<4xf32>
}
func.func private @add(%x: tensor<4xf32>, %place: tensor<4xf32>) -> tensor<4xf32>
    attributes {mlcflow.kernel} {
  %y = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel"]}
      ins(%x : tensor<4xf32>) outs(%place : tensor<4xf32>) {
    ^bb0(%a: f32, %b: f32):
      %c = arith.addf %a, %VALUE : f32
      linalg.yield %c : f32
  } -> tensor<4xf32>
  return %y : tensor<4xf32>
}
"""


@pytest.mark.parametrize(("value", "inputs"), [("a", 1), ("b", 2)])
def test_a_kernel_that_reads_its_destination_is_given_numbers(value: str, inputs: int) -> None:
    """It was given memory in which anything may stand."""
    module = kernel_harness(mlir.parse(IN_PLACE.replace("VALUE", value)))
    assert len(ports_of(module)[0]) == inputs
    arrays = [np.full(4, 2.0**n, np.float32) for n in range(inputs)]
    [result] = call(load_reference(module, {}, 0), arrays)
    assert result.tolist() == [2.0 if inputs == 1 else 3.0] * 4


def test_the_command_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.mlir").write_text(HALF)
    result = CliRunner().invoke(main, ["verify", "half.mlir", "--pipeline=reference", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["ok"] and data["stages"][0]["stage"] == "import"
    text = CliRunner().invoke(main, ["verify", "half.mlir", "--pipeline=reference"]).output
    assert "every stage computes the model" in text and "llvm" in text
