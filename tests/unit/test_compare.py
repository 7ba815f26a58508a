"""The comparison that decides whether a compiled model is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlcflow import VerificationError
from mlcflow.check.compare import TOLERANCES, compare
from mlcflow.runtime.dtypes import NUMPY


def message(actual: object, expected: object) -> str:
    """What is said of a difference that must be found."""
    with pytest.raises(VerificationError) as raised:
        compare([actual], [expected])
    return str(raised.value)


@pytest.mark.parametrize("name", NUMPY)
def test_equal_values_of_every_type(name: str) -> None:
    values = np.array([0, 1, 3, 100]).astype(NUMPY[name])
    compare([values], [values.copy()])
    if hasattr(torch, name):
        tensor = torch.tensor([0, 1, 3, 100]).to(getattr(torch, name))
        compare([tensor], [tensor.clone()])
        compare([values], [tensor])


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_tolerance_is_a_border(name: str) -> None:
    relative, absolute = TOLERANCES[name]
    wide = "complex128" if name.startswith("complex") else "float64"
    one = np.ones(3, wide)
    allowed = absolute + relative
    compare([(one + 0.5 * allowed).astype(NUMPY[name])], [one.astype(NUMPY[name])])
    beyond = (one + 3 * allowed).astype(NUMPY[name])
    assert "3 of 3 elements" in message(beyond, one.astype(NUMPY[name]))


@pytest.mark.parametrize("name", ["int64", "int8", "uint8", "uint64", "bool"])
def test_integers_must_be_equal(name: str) -> None:
    values = np.array([0, 1, 1], NUMPY[name])
    other = np.array([0, 1, 0], NUMPY[name])
    assert "1 of 3 elements" in message(other, values)


def test_large_integers_do_not_pass_for_equal() -> None:
    assert "at [0]" in message(np.array([2**62 + 1]), np.array([2**62]))
    assert "1 of 1" in message(np.array([2**62]), np.array([-(2**62)]))  # 2**63 apart
    top = np.array([2**64 - 1], np.uint64)
    compare([top], [top.copy()])
    assert "at [0]" in message(top - np.uint64(1), top)


def test_the_worst_element_is_named() -> None:
    expected = np.zeros((2, 3), np.float32)
    actual = expected.copy()
    actual[0, 1], actual[1, 2] = 0.5, -7
    text = message(actual, expected)
    assert "2 of 6 elements are wrong; the worst, at [1, 2], is -7.0 and should be 0.0" in text
    assert "float32" in text


def test_not_a_number() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    compare([odd], [odd.copy()])
    for index, value in ((0, 1.0), (1, -np.inf), (2, 3.0), (3, np.nan)):
        other = odd.copy()
        other[index] = value
        assert f"1 of 4 elements are wrong; the worst, at [{index}]" in message(other, odd)


def test_shape_type_and_count() -> None:
    ones = np.ones((2, 2), np.float32)
    assert "expected float32[2, 2], got float32[4]" in message(ones.reshape(-1), ones)
    assert "expected float32[2, 2], got float64[2, 2]" in message(ones.astype(float), ones)
    with pytest.raises(VerificationError, match="expected 1 results, got 2"):
        compare([ones, ones], [ones])


def test_every_wrong_result_is_listed() -> None:
    with pytest.raises(VerificationError) as raised:
        compare([np.ones(2), np.ones(2), np.zeros(2)], [np.zeros(2), np.ones(2), np.ones(2)])
    text = str(raised.value)
    assert "result 0:" in text and "result 1:" not in text and "result 2:" in text


def test_lazily_conjugated_and_negated_tensors() -> None:
    x = torch.complex(torch.randn(3), torch.randn(3))
    compare([x.conj()], [x.conj().resolve_conj()])
    compare([x.conj().imag], [-x.imag])
    assert "3 of 3" in message(x.conj(), x)


def test_what_is_not_an_array() -> None:
    compare([7, None, "a", True, 0.5], [7, None, "a", True, 0.5 + 1e-6])
    assert "expected 7, got 8" in message(8, 7)
    assert "expected None, got 0" in message(0, None)
    assert "expected True, got 1" in message(1, True)


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_nothing_to_compare(shape: tuple[int, ...]) -> None:
    compare([np.zeros(shape)], [np.ones(shape)])
