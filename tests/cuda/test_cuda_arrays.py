"""Arrays on the device without a copy, streams, and calls as graphs."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
import torch
from test_cuda_driver import layers

import mlcflow
from mlcflow.gpu import dlpack
from mlcflow.gpu.dlpack import DeviceArray, receive
from mlcflow.runtime.interface import Port


class Elsewhere:
    """An array of another library in the memory of the fake device."""

    def __init__(self, gpu, array, device=0):
        self._gpu, self.device, self.streams = gpu, device, []
        address = ctypes.c_uint64()
        gpu.cuMemAlloc_v2(ctypes.byref(address), array.nbytes)
        ctypes.memmove(address.value, array.ctypes.data, array.nbytes)
        self.address, self.nbytes = address.value, array.nbytes
        self._port = Port("input", "x", array.dtype.name, array.shape)

    def data_ptr(self):
        return self.address

    def __dlpack_device__(self):
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return DeviceArray(self, self._port, self.device, lambda other: None).__dlpack__()


def contents(gpu, array):
    """What lies on the device, as another library would read it."""
    port = Port("input", "y", array.dtype, array.shape)
    found = receive(array, port, 0, 0)
    assert gpu._holds(found.address, 1) and found.dtype == array.dtype
    size = int(np.prod(found.shape)) * np.dtype(found.dtype).itemsize
    return np.frombuffer(ctypes.string_at(found.address, size), found.dtype).reshape(found.shape)


def test_nothing_is_copied(gpu, build):
    model, x = layers()
    executable = build(model, x)
    executable(Elsewhere(gpu, x.numpy()))  # the first call on a stream makes its arena
    given = Elsewhere(gpu, x.numpy())
    gpu.calls.clear()
    result = executable(given)
    asked = [call for call in gpu.calls if "launch" not in call]
    assert asked == ["cuCtxSetCurrent", "cuMemAllocAsync"]  # nobody waited
    assert given.streams == [1] and set(gpu.streams[-2:]) == {0}  # the default stream
    with torch.no_grad():
        np.testing.assert_allclose(contents(gpu, result), model(x).numpy(), rtol=1e-5, atol=1e-5)


def test_each_call_gives_memory_of_its_own(gpu, build):
    model, x = layers()
    executable = build(model, x)
    first, second = (executable(Elsewhere(gpu, x.numpy() * n)) for n in (1, 2))
    with torch.no_grad():
        for number, result in ((1, first), (2, second)):
            expected = model(x * number).numpy()
            np.testing.assert_allclose(contents(gpu, result), expected, rtol=1e-5, atol=1e-5)
    held = len(gpu.memory)
    capsule = first.__dlpack__()
    del first
    assert len(gpu.memory) == held  # who has the capsule has the memory
    del capsule
    gc.collect()
    assert len(gpu.memory) == held - 1


def test_calls_on_several_streams(gpu, build, monkeypatch):
    model, x = layers()
    executable = build(model, x)
    results = []
    for stream in (0x70, 0x71, 0x70):
        monkeypatch.setattr("mlcflow.gpu.executable.stream_of", lambda value, s=stream: s)
        given = Elsewhere(gpu, x.numpy())
        results.append(executable(given))
        assert given.streams == [stream] and gpu.streams[-1] == stream
    gpu.calls.clear()
    results[1].__dlpack__(stream=0x71)
    assert not gpu.calls
    results[1].__dlpack__(stream=1)  # another stream waits
    assert "cuStreamWaitEvent" in gpu.calls


def test_an_input_that_is_overwritten(gpu, build):
    executable = build(lambda x: x.add_(1), torch.zeros(4, 8))
    given = Elsewhere(gpu, np.zeros((4, 8), np.float32))
    executable(given)
    assert ctypes.c_float.from_address(given.address).value == 1


WRONG = {
    "dtype": (lambda gpu: Elsewhere(gpu, np.zeros((6, 16))), "expected float32, got float64"),
    "shape": (lambda gpu: Elsewhere(gpu, np.zeros((6, 17), np.float32)), "array of shape"),
    "device": (lambda gpu: Elsewhere(gpu, np.zeros((6, 16), np.float32), 1), "on GPU 0, got 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_do_not_fit(gpu, build, name):
    model, x = layers()
    make, message = WRONG[name]
    with pytest.raises(mlcflow.ExecutionError, match=message):
        build(model, x)(make(gpu))


def test_misaligned_arrays(gpu):
    whole = Elsewhere(gpu, np.zeros(8, np.float32))
    whole.address += 4
    with pytest.raises(mlcflow.ExecutionError, match="multiple of 16 bytes"):
        receive(whole, Port("input", "x", "float32", (8,)), 0, 0)


def test_a_call_becomes_a_graph(gpu, build):
    model, x = layers()
    executable = build(model, x)
    asked = []
    for number in range(3):
        gpu.calls.clear()
        inputs = x * (number + 1)
        result = executable(inputs)
        with torch.no_grad():
            torch.testing.assert_close(result, model(inputs))
        asked.append([call for call in gpu.calls if not call.startswith("launch")])
        assert len(gpu.launched) == 2
    assert "cuGraphLaunch" not in asked[0] and "cuStreamBeginCapture_v2" in asked[1]
    assert asked[2] == ["cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuGraphLaunch",
                        "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"]  # fmt: skip
    executable.prepare()  # the old graph reads the old memory
    with torch.no_grad():
        torch.testing.assert_close(executable(x), model(x))
    del executable
    gc.collect()
    assert not gpu.graphs and not gpu.memory


def test_what_is_no_graph(gpu, build):
    """One launch is as fast by itself; sizes that change, and data that decide, are not alike."""
    executable = build(torch.relu, torch.ones(4, 8))
    rows = torch.export.Dim("rows", min=2, max=64)
    model, x = layers()
    ragged = build(model, x, dynamic_shapes=({0: rows},))
    for _ in range(3):
        executable(torch.ones(4, 8))
        ragged(x)
    assert "cuStreamBeginCapture_v2" not in gpu.calls
