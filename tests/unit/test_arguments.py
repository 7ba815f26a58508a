"""What a caller may pass, and what is refused: shapes, dtypes, memory layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import ExecutionError
from mlcflow.runtime.executable import Executable

DOUBLE = """
func.func @main(%x: tensor<3x4xf32>) -> tensor<3x4xf32> {
  %empty = tensor.empty() : tensor<3x4xf32>
  %y = linalg.map { arith.addf } ins(%x, %x : tensor<3x4xf32>, tensor<3x4xf32>)
                                 outs(%empty : tensor<3x4xf32>)
  return %y : tensor<3x4xf32>
}
"""
GRID = np.arange(12, dtype=np.float32).reshape(3, 4)


pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture(scope="module", params=["reference", "cpu"])
def double(request: pytest.FixtureRequest) -> Executable:
    """Adds a 3 x 4 array to itself."""
    return mlcflow.compile(DOUBLE, pipeline=request.param)


def test_an_array_is_read_where_it_lies(double: Executable, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("took the way of arrays that need a copy")

    monkeypatch.setattr("mlcflow.runtime.executable.accept", refuse)
    np.testing.assert_array_equal(double(GRID), GRID + GRID)
    torch.testing.assert_close(double(torch.from_numpy(GRID)), torch.from_numpy(GRID + GRID))
    frozen = GRID.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(double(frozen), GRID + GRID)


def test_results_are_written_where_the_caller_gets_them(double: Executable) -> None:
    for value in (GRID, torch.from_numpy(GRID)):
        result = double(value)
        written = double._frames[0].words[double._allocated[0][0]]
        assert written == np.asarray(result).ctypes.data


def test_contiguous_arrays_are_not_copied(double: Executable) -> None:
    from mlcflow.runtime.arguments import _without_gaps

    port = double.inputs[0]
    tensor = torch.from_numpy(GRID)
    assert _without_gaps(GRID, port).ctypes.data == GRID.ctypes.data
    assert _without_gaps(tensor, port).data_ptr() == tensor.data_ptr()
    assert _without_gaps(GRID[::-1], port).ctypes.data != GRID[::-1].ctypes.data


def misaligned(values: np.ndarray) -> np.ndarray:
    raw = np.zeros(values.nbytes + 1, np.uint8)[1:]
    array = raw.view(values.dtype).reshape(values.shape)
    array[...] = values
    assert not array.flags.aligned
    return array


ODD_ARRAYS = {
    "transposed": np.asfortranarray(GRID),
    "reversed": np.ascontiguousarray(GRID[::-1])[::-1],
    "sliced": np.repeat(GRID, 2, axis=1)[:, ::2],
    "misaligned": misaligned(GRID),
    "matrix": np.asmatrix(GRID),
    "masked": np.ma.masked_array(GRID, mask=GRID > 5),
    "torch transposed": torch.from_numpy(GRID.T.copy()).t(),
    "torch misaligned": torch.from_numpy(misaligned(GRID)),
    "torch negated": torch.complex(torch.zeros(3, 4), -torch.from_numpy(GRID)).conj().imag,
    "torch parameter": torch.nn.Parameter(torch.from_numpy(GRID)),
    "torch with gradient": torch.from_numpy(GRID).clone().requires_grad_() * 1,
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_odd_memory_layouts(double: Executable, name: str) -> None:
    value = ODD_ARRAYS[name]
    result = double(value)
    assert isinstance(result, torch.Tensor) == name.startswith("torch")
    assert type(result) in (np.ndarray, torch.Tensor)
    np.testing.assert_array_equal(np.asarray(result), GRID + GRID)


def test_a_broadcast_array(double: Executable) -> None:
    ones = np.broadcast_to(np.float32(1), (3, 4))
    np.testing.assert_array_equal(double(ones), ones + ones)
    row = torch.arange(4.0).expand(3, 4)
    torch.testing.assert_close(double(row), row + row)


REFUSED = {
    "shape": (GRID.T.copy(), r"input 'arg0' \(float32\[3x4\]\): got an array of shape \(4, 3\)"),
    "rank": (GRID.reshape(-1), r"got an array of shape \(12,\)"),
    "scalar": (np.float32(1), r"got an array of shape \(\)"),
    "dtype": (GRID.astype(np.float64), "expected float32, got float64"),
    "integers": (GRID.astype(np.int32), "expected float32, got int32"),
    "byte order": (GRID.astype(">f4"), "expected float32, got >f4"),
    "strings": (GRID.astype(str), "expected float32, got str"),
    "objects": (GRID.astype(object), "expected float32, got object"),
    "list": (GRID.tolist(), "expected a numpy array or a torch tensor, got list"),
    "number": (3.0, "expected a numpy array or a torch tensor, got float"),
    "none": (None, "expected a numpy array or a torch tensor, got NoneType"),
    "torch dtype": (torch.zeros(3, 4, dtype=torch.float16), "expected float32, got float16"),
    "torch shape": (torch.zeros(4, 3), r"got an array of shape \(4, 3\)"),
    "meta": (torch.zeros(3, 4, device="meta"), "expected a tensor on the CPU, got meta"),
    "sparse": (torch.zeros(3, 4).to_sparse(), "expected a dense tensor, got torch.sparse_coo"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(double: Executable, name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(ExecutionError, match=message):
        double(value)
    np.testing.assert_array_equal(double(GRID), GRID + GRID)  # and nothing is broken


def test_count(double: Executable) -> None:
    with pytest.raises(ExecutionError, match=r"expected 1 inputs \(.*3x4.*\), got 0"):
        double()
    with pytest.raises(ExecutionError, match="got 2"):
        double(GRID, GRID)
    with pytest.raises(ExecutionError, match="unexpected keyword arguments: x"):
        double(x=GRID)


def test_not_a_number_and_infinities(double: Executable) -> None:
    odd = GRID.copy()
    odd[0] = [np.nan, np.inf, -np.inf, -0.0]
    np.testing.assert_array_equal(double(odd), odd + odd)
    assert np.signbit(double(odd)[0, 3])


def test_a_default_device_changes_nothing(double: Executable) -> None:
    with torch.device("meta"):
        result = double(torch.from_numpy(GRID))
    assert result.device.type == "cpu"


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0, 2)])
def test_zero_sized_dimensions(pipeline: str, shape: tuple[int, ...]) -> None:
    executable = mlcflow.compile(lambda x: (x + 1, x.sum()), torch.zeros(shape), pipeline=pipeline)
    for x in (np.zeros(shape, np.float32), torch.zeros(shape)):
        same, total = executable(x)
        assert tuple(same.shape) == shape and type(same) is type(x)
        assert tuple(total.shape) == () and total == 0


def test_rank_zero(pipeline: str) -> None:
    executable = mlcflow.compile(lambda x: x * 3, torch.tensor(2.0), pipeline=pipeline)
    assert executable(torch.tensor(5.0)) == 15
    for value in (np.array(5, np.float32), np.float32(5)):
        result = executable(value)
        assert type(result) is np.ndarray and result.shape == () and result == 15
