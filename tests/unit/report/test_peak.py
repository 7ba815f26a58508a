"""The peaks that programs are measured against."""

from __future__ import annotations

import platform
import sys

import numpy as np
import pytest

from mlcflow.errors import MlcflowError
from mlcflow.report import peak
from mlcflow.target import Target

is_elf = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.mark.skipif(not is_elf, reason="reads x86-64 code")
@pytest.mark.skipif("fma" not in Target.host().features, reason="needs FMA")
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_fma_program_does_nothing_else(dtype: str) -> None:
    target = Target.host()
    loop = peak.fma_program(dtype, target)[0].hot_loop("main")
    assert set(loop.fmas) == {target.vector_bits}
    assert loop.fmas == loop.arithmetic
    assert (loop.loads, loop.stores, loop.spills, loop.calls) == (0, 0, 0, ())
    # All accumulators are there, and next to them only the counter of the loop.
    count = sum(loop.fmas.values())
    assert count % peak.accumulators(target) == 0
    assert len(loop.instructions) <= count + 3


def test_the_fma_program_computes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "STEPS", 10)
    target = Target.host()
    executable, lanes = peak.fma_program("f64", target)
    first, second = np.full(lanes, 0.5), np.full(lanes, 2.0)
    count = peak.accumulators(target)
    starts = sum(0.5 + 2.0 * number for number in range(count))
    np.testing.assert_array_equal(
        executable(np.stack([first, second])), np.full(lanes, starts + count * 10 * 0.5 * 2.0)
    )


def test_the_memory_programs_read_and_copy() -> None:
    target = Target.host()
    lanes = target.lanes(32)
    count = 4 * lanes * peak.UNROLL
    values = np.arange(count, dtype=np.float32)
    np.testing.assert_array_equal(
        peak._read_program(count, lanes, target)(values), values.reshape(-1, lanes).sum(0)
    )
    np.testing.assert_array_equal(peak._copy_program(count, lanes, target)(values), values[:lanes])
    pair = np.stack([values, values + 1])
    expected = (pair[0] + 2 * pair[1])[:lanes]
    np.testing.assert_array_equal(peak._triad(count, lanes, target)(pair), expected)


def test_the_numbers_are_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loose, since other programs may be running."""
    monkeypatch.setattr(peak, "LARGEST", 16 << 20)
    single, double = peak.fma_peak("f32"), peak.fma_peak("f64")
    assert 1 < double < single < 10_000
    bandwidth = peak.memory_bandwidth()
    for value in (bandwidth.read, bandwidth.copy, bandwidth.triad):
        assert 0.1 < value <= bandwidth.best < 1000
    in_cache = peak.memory_bandwidth(nbytes=512 << 10)
    assert in_cache.read > bandwidth.read / 2


@pytest.mark.skipif("fma" not in Target.host().features, reason="needs FMA")
def test_the_programs_of_a_peak_write_vectors() -> None:
    target = Target.host()
    lanes = target.lanes(32)
    loop = peak._triad(256 * lanes * peak.UNROLL, lanes, target).hot_loop("main")
    assert set(loop.fmas) == {target.vector_bits} and not loop.spills
    assert loop.stores == loop.fmas[target.vector_bits]


def test_other_types_are_refused() -> None:
    with pytest.raises(MlcflowError, match="expected a type among f32, f64, got 'i8'"):
        peak.fma_peak("i8")
