"""Every element type, from numpy and from PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlcflow
from mlcflow.runtime import dtypes

FLOATS = ["float64", "float32", "float16", "bfloat16"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8"]
COMPLEX = ["complex64", "complex128"]


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_arithmetic(pipeline: str, name: str) -> None:
    x = (torch.arange(12) - 3).reshape(3, 4).to(getattr(torch, name))
    executable = mlcflow.compile(lambda a: a + a, x, pipeline=pipeline)
    assert (executable.inputs[0].dtype, executable.outputs[0].dtype) == (name, name)
    result = executable(x)
    assert result.dtype == x.dtype and torch.equal(result, x + x)


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "bool", *COMPLEX])
def test_every_type_goes_in_and_out(pipeline: str, name: str) -> None:
    values = (torch.arange(12) % 7).reshape(3, 4).to(getattr(torch, name))
    executable = mlcflow.compile(lambda a: a.t(), values, pipeline=pipeline)
    assert torch.equal(executable(values), values.t())
    array = np.arange(12).reshape(3, 4) % 7
    array = array.astype(dtypes.NUMPY[name])
    result = executable(array)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array.T)


def test_bool(pipeline: str) -> None:
    x = torch.tensor([[True, False], [False, False]])
    executable = mlcflow.compile(lambda a: (~a, a.any(), a.sum(), a & a.t()), x, pipeline=pipeline)
    torch.testing.assert_close(executable(x), (~x, x.any(), x.sum(), x & x.t()))
    results = executable(x.numpy())
    assert [r.dtype.name for r in results] == ["bool", "bool", "int64", "bool"]


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_parts(pipeline: str, name: str) -> None:
    x = torch.complex(torch.randn(3, 4), torch.randn(3, 4)).to(getattr(torch, name))
    executable = mlcflow.compile(lambda a: (a.real + a.imag, a.imag), x, pipeline=pipeline)
    torch.testing.assert_close(executable(x), (x.real + x.imag, x.imag))
    torch.testing.assert_close(executable(x.conj()), (x.real - x.imag, -x.imag))


def test_conversions(pipeline: str) -> None:
    x = torch.tensor([-3.75, -0.5, 0.0, 0.49, 2.5, 120.9])
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
    executable = mlcflow.compile(lambda a: [a.to(k) for k in kinds], x, pipeline=pipeline)
    for result, kind in zip(executable(x), kinds, strict=True):
        assert result.dtype == kind and torch.equal(result, x.to(kind))


def test_uint8_is_unsigned(pipeline: str) -> None:
    x = torch.tensor([0, 1, 127, 128, 200, 255], dtype=torch.uint8)
    executable = mlcflow.compile(lambda a: (a.float(), a > 100, a.long()), x, pipeline=pipeline)
    torch.testing.assert_close(executable(x), (x.float(), x > 100, x.long()))


SIGNLESS = "func.func @main(%x: tensor<2x{0}>) -> tensor<2x{0}> {{ return %x : tensor<2x{0}> }}"


@pytest.mark.parametrize(
    ("mlir", "name"),
    [("f64", "float64"), ("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16"),
     ("i64", "int64"), ("i32", "int32"), ("i16", "int16"), ("i8", "int8"), ("i1", "bool"),
     ("index", "int64"), ("complex<f32>", "complex64"), ("complex<f64>", "complex128")],
)  # fmt: skip
def test_mlir_types(mlir: str, name: str) -> None:
    executable = mlcflow.compile(SIGNLESS.format(mlir), pipeline="reference")
    assert executable.inputs[0].dtype == name
    x = np.array([1, 0], dtypes.NUMPY[name])
    np.testing.assert_array_equal(executable(x), x)


def test_an_mlir_type_that_has_no_numpy_counterpart() -> None:
    with pytest.raises(mlcflow.MlcflowError, match="i7"):
        mlcflow.compile(SIGNLESS.format("i7"), pipeline="reference")


def test_declared_unsigned() -> None:
    text = """
    func.func @main(%x: tensor<2xi16> {mlcflow.input = "x", mlcflow.dtype = "uint16"})
        -> (tensor<2xi16> {mlcflow.output = "y", mlcflow.dtype = "uint16"}) {
      return %x : tensor<2xi16>
    }
    """
    executable = mlcflow.compile(text, pipeline="reference")
    x = np.array([1, 65535], np.uint16)
    assert executable(x).dtype == np.uint16
    np.testing.assert_array_equal(executable(x), x)


def test_names_cover_each_other() -> None:
    for name, dtype in dtypes.NUMPY.items():
        assert dtype.name == name
    assert {dtypes.of_mlir(text) for text in ("f32", "bf16", "i1", "complex<f64>")} <= set(
        dtypes.NUMPY
    )
