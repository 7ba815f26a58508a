"""Targets are values."""

from __future__ import annotations

import dataclasses
import os

import pytest

from mlcflow import MlcflowError, Target


def test_the_host_is_measured() -> None:
    host = Target.host()
    assert host.native and str(host) == "host"
    assert 1 <= host.cores <= (os.cpu_count() or 1)
    assert host.vector_bits in (128, 256, 512)
    assert host.lanes(32) * 32 == host.vector_bits
    assert host.caches[0] <= host.caches[1] and min(host.caches) > 0
    assert host == Target.host()


@pytest.mark.parametrize(
    ("chip", "bits", "registers", "feature"),
    [("haswell", 256, 16, "avx2"), ("skylake-avx512", 512, 32, "avx512f"),
     ("zen2", 256, 16, "fma"), ("nehalem", 128, 16, "sse4.2")],
)  # fmt: skip
def test_named_chips(chip: str, bits: int, registers: int, feature: str) -> None:
    target = Target.parse(f"cpu:{chip}")
    assert (target.vector_bits, target.vector_registers) == (bits, registers)
    assert feature in target.features and list(target.features) == sorted(target.features)
    assert target.triple.startswith("x86_64-") and not target.native
    assert str(target).startswith("cpu:")


def test_arm() -> None:
    target = Target.parse("cpu:neoverse-n1")
    assert target.triple.startswith("aarch64-")
    assert (target.vector_bits, target.vector_registers) == (128, 32)


def test_gpus() -> None:
    target = Target.parse("cuda:sm_80")
    assert target == Target("cuda", chip="sm_80") and str(target) == "cuda:sm_80"
    assert target.triple == "nvptx64-nvidia-cuda" and target.features == ("ptx70",)
    assert target.lanes(32) == 4 and target.cores == 108 and not target.native
    with pytest.raises(MlcflowError, match="known: sm_100"):
        Target("cuda")


def test_host_by_name() -> None:
    assert Target.parse("host") == Target.parse("cpu") == Target.host()


@pytest.mark.parametrize(
    ("text", "message"),
    [("cpu:haswel", "did you mean 'haswell'"),
     ("gpu:x", "expected 'host', 'cpu:CHIP' or 'cuda:CHIP', got"),
     ("cuda:sm_70", "unknown chip 'sm_70'; did you mean 'sm_"),
     ("", "expected 'host'"), ("cpu:", "unknown chip")],
)  # fmt: skip
def test_unknown_targets(text: str, message: str) -> None:
    with pytest.raises(MlcflowError, match=message):
        Target.parse(text)


def test_what_no_machine_is() -> None:
    host = Target.host()
    with pytest.raises(MlcflowError, match="expected at least 1, got 0"):
        dataclasses.replace(host, cores=0)
    with pytest.raises(MlcflowError, match="target kind: expected 'cpu' or 'cuda'"):
        dataclasses.replace(host, kind="tpu")


def test_lanes() -> None:
    target = dataclasses.replace(Target.host(), vector_bits=256)
    assert [target.lanes(bits) for bits in (8, 16, 32, 64, 512)] == [32, 16, 8, 4, 1]
