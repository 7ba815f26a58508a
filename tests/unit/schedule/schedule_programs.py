"""Small programs that schedules are tried on, and what they compute, by numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mlcflow import mlir
from mlcflow.compiler import build_pipeline, load
from mlcflow.errors import ScheduleError
from mlcflow.frontends import Imported
from mlcflow.mlir import clone, ir, walk
from mlcflow.schedule.program import load_program
from mlcflow.schedule.schedule import Schedule

Array = np.ndarray


@dataclass(frozen=True)
class Program:
    """MLIR text, the shapes of its inputs, and the same in numpy."""

    text: str
    shapes: tuple[tuple[int, ...], ...]
    expected: Callable[..., Array]

    def schedule(self) -> tuple[ir.Module, Schedule]:
        module = mlir.parse(self.text)
        return module, Schedule(module)

    def inputs(self) -> list[Array]:
        random = np.random.default_rng(0)
        return [random.standard_normal(shape).astype(np.float32) for shape in self.shapes]

    def check(self, module: ir.Module, *, vectors: bool = False) -> None:
        """Run the module as a schedule left it; LLVM's optimizer is off, for speed."""
        inputs = self.inputs()
        wanted = self.expected(*[value.astype(np.float64) for value in inputs])
        if vectors:
            executable = load_program(module)
        else:
            executable = load(
                Imported(clone(module)), build_pipeline("reference", options={"opt_level": 0})
            )
        got = executable(*inputs)
        # Sums of at most a few hundred products of numbers around 1, in f32.
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def matmul(m: int, n: int, k: int) -> Program:
    """``a @ b``."""
    text = f"""
func.func @main(%a: tensor<{m}x{k}xf32>, %b: tensor<{k}x{n}xf32>) -> tensor<{m}x{n}xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{m}x{n}xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %r = linalg.matmul ins(%a, %b : tensor<{m}x{k}xf32>, tensor<{k}x{n}xf32>)
                     outs(%f : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  return %r : tensor<{m}x{n}xf32>
}}"""
    return Program(text, ((m, k), (k, n)), lambda a, b: a @ b)


def linear_relu(m: int, n: int, k: int) -> Program:
    """``max(a @ b + c, 0)``, the epilogue as one operation."""
    text = f"""
func.func @main(%a: tensor<{m}x{k}xf32>, %b: tensor<{k}x{n}xf32>, %c: tensor<{n}xf32>)
    -> tensor<{m}x{n}xf32> {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{m}x{n}xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %r = linalg.matmul ins(%a, %b : tensor<{m}x{k}xf32>, tensor<{k}x{n}xf32>)
                     outs(%f : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %s = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>,
                       affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}}
      ins(%r, %c : tensor<{m}x{n}xf32>, tensor<{n}xf32>) outs(%e : tensor<{m}x{n}xf32>) {{
  ^bb0(%x: f32, %y: f32, %o: f32):
    %1 = arith.addf %x, %y : f32
    %2 = arith.maximumf %1, %zero : f32
    linalg.yield %2 : f32
  }} -> tensor<{m}x{n}xf32>
  return %s : tensor<{m}x{n}xf32>
}}"""
    shapes = ((m, k), (k, n), (n,))
    return Program(text, shapes, lambda a, b, c: np.maximum(a @ b + c, 0))


def batch_matmul(b: int, m: int, n: int, k: int) -> Program:
    """``x @ y`` for each of a batch."""
    x, y, r = f"tensor<{b}x{m}x{k}xf32>", f"tensor<{b}x{k}x{n}xf32>", f"tensor<{b}x{m}x{n}xf32>"
    text = f"""
func.func @main(%x: {x}, %y: {y}) -> {r} {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : {r}
  %f = linalg.fill ins(%zero : f32) outs(%e : {r}) -> {r}
  %r = linalg.batch_matmul ins(%x, %y : {x}, {y}) outs(%f : {r}) -> {r}
  return %r : {r}
}}"""
    return Program(text, ((b, m, k), (b, k, n)), lambda x, y: x @ y)


def convolution(size: int, window: int, inside: int, outside: int) -> Program:
    """A two-dimensional convolution, channels last, of one image of ``size`` squared results."""
    whole = size + window - 1
    x = f"tensor<1x{whole}x{whole}x{inside}xf32>"
    w = f"tensor<{window}x{window}x{inside}x{outside}xf32>"
    r = f"tensor<1x{size}x{size}x{outside}xf32>"
    text = f"""
func.func @main(%x: {x}, %w: {w}) -> {r} {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : {r}
  %f = linalg.fill ins(%zero : f32) outs(%e : {r}) -> {r}
  %r = linalg.conv_2d_nhwc_hwcf ins(%x, %w : {x}, {w}) outs(%f : {r}) -> {r}
  return %r : {r}
}}"""

    def expected(x: Array, w: Array) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))
        return np.einsum("nijcab,abco->nijo", windows, w)

    return Program(text, ((1, whole, whole, inside), (window, window, inside, outside)), expected)


def reduction(m: int, n: int, kind: str) -> Program:
    """Along rows: ``sum``, ``max``, or ``exp``, the sum of exponentials; twice the result."""
    start = {"sum": "0.0", "max": "0xFF800000", "exp": "0.0"}[kind]
    body = {
        "sum": "%1 = arith.addf %o, %x : f32",
        "max": "%1 = arith.maximumf %o, %x : f32",
        "exp": "%0 = math.exp %x : f32\n    %1 = arith.addf %o, %0 : f32",
    }[kind]
    text = f"""
func.func @main(%x: tensor<{m}x{n}xf32>) -> tensor<{m}xf32> {{
  %start = arith.constant {start} : f32
  %e = tensor.empty() : tensor<{m}xf32>
  %f = linalg.fill ins(%start : f32) outs(%e : tensor<{m}xf32>) -> tensor<{m}xf32>
  %r = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
      iterator_types = ["parallel", "reduction"]}}
      ins(%x : tensor<{m}x{n}xf32>) outs(%f : tensor<{m}xf32>) {{
  ^bb0(%x_: f32, %o: f32):
    {body.replace("%x", "%x_")}
    linalg.yield %1 : f32
  }} -> tensor<{m}xf32>
  %s = linalg.generic {{
      indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]}}
      ins(%r : tensor<{m}xf32>) outs(%e : tensor<{m}xf32>) {{
  ^bb0(%x_: f32, %o: f32):
    %1 = arith.addf %x_, %x_ : f32
    linalg.yield %1 : f32
  }} -> tensor<{m}xf32>
  return %s : tensor<{m}xf32>
}}"""
    numpy = {
        "sum": lambda x: 2 * x.sum(1),
        "max": lambda x: 2 * x.max(1),
        "exp": lambda x: 2 * np.exp(x).sum(1),
    }
    return Program(text, ((m, n),), numpy[kind])


def elementwise(m: int, n: int) -> Program:
    """``-(x * transposed y) + x / (1 + z * z)``, in two operations, the second read twice."""
    text = f"""
func.func @main(%x: tensor<{m}x{n}xf32>, %y: tensor<{n}x{m}xf32>, %z: tensor<{n}xf32>)
    -> tensor<{m}x{n}xf32> {{
  %one = arith.constant 1.0 : f32
  %e = tensor.empty() : tensor<{m}x{n}xf32>
  %r = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j, i)>,
                       affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}}
      ins(%x, %y : tensor<{m}x{n}xf32>, tensor<{n}x{m}xf32>) outs(%e : tensor<{m}x{n}xf32>) {{
  ^bb0(%a: f32, %b: f32, %o: f32):
    %1 = arith.mulf %a, %b : f32
    %2 = arith.negf %1 : f32
    linalg.yield %2 : f32
  }} -> tensor<{m}x{n}xf32>
  %s = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>,
                       affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]}}
      ins(%r, %x, %z : tensor<{m}x{n}xf32>, tensor<{m}x{n}xf32>, tensor<{n}xf32>)
      outs(%e : tensor<{m}x{n}xf32>) {{
  ^bb0(%a: f32, %b: f32, %c: f32, %o: f32):
    %1 = arith.mulf %c, %c : f32
    %2 = arith.addf %1, %one : f32
    %3 = arith.divf %b, %2 : f32
    %4 = arith.addf %a, %3 : f32
    linalg.yield %4 : f32
  }} -> tensor<{m}x{n}xf32>
  return %s : tensor<{m}x{n}xf32>
}}"""
    shapes = ((m, n), (n, m), (n,))
    return Program(text, shapes, lambda x, y, z: -(x * y.T) + x / (1 + z * z))


def rows(m: int, n: int) -> Program:
    """``exp(x)`` and then ``y + exp(x)``: nothing is broadcast."""
    kind = f"tensor<{m}x{n}xf32>"
    maps = "affine_map<(i, j) -> (i, j)>"
    text = f"""
func.func @main(%x: {kind}, %y: {kind}) -> {kind} {{
  %e = tensor.empty() : {kind}
  %r = linalg.generic {{indexing_maps = [{maps}, {maps}],
                        iterator_types = ["parallel", "parallel"]}}
      ins(%x : {kind}) outs(%e : {kind}) {{
  ^bb0(%a: f32, %o: f32):
    %1 = math.exp %a : f32
    linalg.yield %1 : f32
  }} -> {kind}
  %s = linalg.generic {{indexing_maps = [{maps}, {maps}, {maps}],
                        iterator_types = ["parallel", "parallel"]}}
      ins(%y, %r : {kind}, {kind}) outs(%e : {kind}) {{
  ^bb0(%a: f32, %b: f32, %o: f32):
    %1 = arith.addf %a, %b : f32
    linalg.yield %1 : f32
  }} -> {kind}
  return %s : {kind}
}}"""
    return Program(text, ((m, n), (m, n)), lambda x, y: y + np.exp(x))


def names(schedule: Schedule, block: str) -> list[str]:
    """The loops of a block with their extents; those around it in capitals."""
    return [
        f"{loop.name if loop.op is None else loop.name.upper()}:{loop.extent}"
        for loop in schedule.loops(block)
    ]


def count(schedule: Schedule, name: str) -> int:
    """Operations of that name in the kernel."""
    return [op.operation.name for op in walk(schedule.function)].count(name)


def refused(schedule: Schedule, primitive: str, *arguments: Any, **options: Any) -> str:
    """What a primitive says when it refuses; nothing may have changed then."""
    before, steps, gone = str(schedule), str(schedule.trace), dict(schedule.gone)
    with pytest.raises(ScheduleError) as caught:
        getattr(schedule, primitive)(*arguments, **options)
    assert (str(schedule), str(schedule.trace), schedule.gone) == (before, steps, gone)
    return str(caught.value)
