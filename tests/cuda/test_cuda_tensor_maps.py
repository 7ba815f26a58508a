"""Tensor maps of the tests: their bytes, and what no driver would encode."""

from __future__ import annotations

import dataclasses

import pytest
from tensor_maps import NBYTES, TensorMap

MAP = TensorMap(9, 1 << 20, (100, 70, 3), (208, 208 * 70), (64, 32, 1), (1, 1, 1), swizzle=3)


@pytest.mark.parametrize("kind", [MAP, TensorMap(7, 64, (8,), (), (8,), (1,), oob_fill=1)])
def test_bytes(kind):
    data = kind.pack()
    assert len(data) == NBYTES and TensorMap.unpack(data) == kind and not kind.problem()


def test_bytes_of_something_else():
    with pytest.raises(ValueError, match="no tensor map"):
        TensorMap.unpack(bytes(NBYTES))


def test_bytes_of_a_box():
    assert MAP.box_bytes == 64 * 32 * 2
    assert dataclasses.replace(MAP, element_strides=(1, 3, 1)).box_bytes == 64 * 11 * 2


REFUSED = {
    "rank": ({"box": (64, 32)}, "each list as many"),
    "address": ({"address": 8}, "address"),
    "stride": ({"strides": (200, 208 * 70)}, "multiples of 16"),
    "box": ({"box": (64, 512, 1)}, "1 to 256"),
    "row": ({"box": (4, 32, 1)}, "multiple of 16 bytes"),
    "swizzle": ({"box": (128, 32, 1)}, "longer than the swizzle"),
    "step": ({"element_strides": (1, 9, 1)}, "1 to 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    change, message = REFUSED[name]
    assert message in dataclasses.replace(MAP, **change).problem()
