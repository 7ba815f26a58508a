"""Descriptors as MLIR lays them out."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mlcflow.runtime import frame as frames
from mlcflow.runtime.frame import WORD, Frame, Layout, aligned, row_major_strides
from mlcflow.runtime.interface import Port


def test_strides() -> None:
    assert row_major_strides((2, 3, 4)) == [12, 4, 1]
    assert row_major_strides(()) == []
    assert row_major_strides((5, 0, 3)) == [0, 3, 1]


def test_layout_puts_descriptors_one_after_the_other() -> None:
    layout = Layout([Port("input", "a", "float32", (2, 3)), Port("output", "b", "int8", ())])
    assert (layout.starts, layout.size, layout.pointers) == ([0, 7], 10, [0, 7])


def test_returned_descriptors_are_passed_as_one() -> None:
    ports = [
        Port("output", "y", "float32", (-1,), returned=True),
        Port("output", "z", "float32", (-1, 2), returned=True),
        Port("input", "x", "float32", (2,)),
    ]
    layout = Layout(ports)
    assert (layout.starts, layout.pointers) == ([0, 5, 12], [0, 12])


def follow(address: int, index: int) -> int:
    """Word ``index`` of the memory at an address."""
    return ctypes.c_uint64.from_address(address + WORD * index).value


def test_the_packed_list_leads_to_the_descriptors() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    ports = [
        Port("input", "x", "float32", (4,)),
        Port("parameter", "w", "float32", (2, 3)),
        Port("arena", "arena", "uint8", (1000,)),
    ]
    frame = Frame(Layout(ports), {"w": weight})
    descriptors = [follow(follow(frame.packed, index), 0) for index in range(3)]
    x, w, arena = descriptors
    assert [follow(x, i) for i in (2, 3, 4)] == [0, 4, 1]
    assert [follow(w, i) for i in range(7)] == [weight.ctypes.data] * 2 + [0, 2, 3, 3, 1]
    assert follow(arena, 1) % frames.ALIGNMENT == 0 and follow(arena, 3) == 1000


def test_reading_a_descriptor_back() -> None:
    port = Port("output", "y", "int16", (-1, -1), returned=True)
    frame = Frame(Layout([port]), {})
    frame.words[:] = [1000, 2000, 3, 5, 7, 70, 10]
    assert frame.read(0, port) == (1000, 2000 + 3 * 2, (5, 7), (70, 10))


@pytest.mark.parametrize("nbytes", [1, 63, 64, 4097])
def test_aligned_memory(nbytes: int) -> None:
    memory = aligned(nbytes)
    assert memory.nbytes == nbytes and memory.ctypes.data % frames.ALIGNMENT == 0


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros((4, 4))[1:], np.zeros(0), np.array(1.0), np.zeros(3, np.int8)[::-1]],
)
def test_the_fast_way_to_an_address_agrees_with_numpy(array: np.ndarray) -> None:
    assert frames.array_address(array) == array.ctypes.data == frames.address(array)
