"""Models of short numbers: products by dot product instructions where the target has them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch

import mlcflow
from mlcflow import Target, mlir
from mlcflow.compiler import build_pipeline
from mlcflow.frontends import Imported
from mlcflow.graph.dots import missing_feature
from mlcflow.mlir import llvm
from mlcflow.report import assembly

HOST, HASWELL = Target.host(), Target.parse("cpu:haswell")
needs_bf16 = pytest.mark.skipif(
    bool(missing_feature("bf16", HOST)), reason="needs dot products of bf16"
)
needs_i8 = pytest.mark.skipif(bool(missing_feature("i8", HOST)), reason="needs those of i8")


def rules(executable: mlcflow.Executable) -> dict[str, str]:
    functions = executable.stages["schedule"].body.operations
    return {
        f.name.value: mlir.ir.StringAttr(f.attributes["mlcflow.rule"]).value
        for f in functions
        if "mlcflow.rule" in f.attributes
    }


def check_linear(layer: torch.nn.Linear, x: torch.Tensor, got: torch.Tensor) -> None:
    """The f32 sum of bf16 products, rounded once more to the 8 bits of bf16."""
    w, b, v = (t.detach().to(torch.float64) for t in (layer.weight, layer.bias, x))
    wanted = v @ w.T + b
    bound = 2.0**-8 * wanted.abs() + (len(w[0]) + 2) * 2.0**-24 * (v.abs() @ w.abs().T + b.abs())
    assert bool(((got.to(torch.float64) - wanted).abs() <= bound).all())


@needs_bf16
@pytest.mark.parametrize(
    "shape", [(32, 64, 48), (1, 64, 256), (50, 66, 100), (7, 2, 16), (5, 32, 8), (64, 128, 512)]
)
def test_linear_layers(shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    torch.manual_seed(0)
    layer = torch.nn.Linear(depth, columns).to(torch.bfloat16).eval()
    x = torch.randn(rows, depth).to(torch.bfloat16)
    executable = mlcflow.compile(layer, x)
    text = str(executable.stages["schedule"])
    assert "dot" in rules(executable).values() and "x86.avx512.dot" in text
    assert "vector.contract" not in text
    assert f"tensor<{depth}x{columns}xf32>" not in text  # no weights in f32
    with torch.no_grad():
        check_linear(layer, x, executable(x))


@needs_bf16
def test_a_network_keeps_bf16_between_its_layers() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 32), torch.nn.Tanh()
    )
    model = model.to(torch.bfloat16).eval()
    executable = mlcflow.compile(model, torch.randn(24, 64).to(torch.bfloat16))
    kernels = [n for n, rule in rules(executable).items() if rule == "dot" and "panels" not in n]
    assert len(kernels) == 2
    main = next(f for f in executable.stages["kernels"].body.operations if f.name.value == "main")
    assert "tensor<24x96xbf16>" in str(main) and "tensor<24x96xf32>" not in str(main)
    loop = executable.hot_loop(kernels[0])
    assert "vdpbf16ps" in loop.text and loop.spills == 0


@needs_bf16
def test_batches_of_products() -> None:
    class Scores(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return q @ k

    torch.manual_seed(0)
    q, k = torch.randn(4, 24, 32).bfloat16(), torch.randn(4, 32, 40).bfloat16()
    executable = mlcflow.compile(Scores(), q, k)
    assert "dot" in rules(executable).values()
    wanted = q.double() @ k.double()
    bound = 2.0**-8 * wanted.abs() + 34 * 2.0**-24 * (q.double().abs() @ k.double().abs())
    assert bool(((executable(q, k).double() - wanted).abs() <= bound).all())


@pytest.mark.parametrize(("depth", "columns"), [(33, 64), (64, 12), (64, 7)])
def test_sizes_that_do_not_suit_stay_in_f32(depth: int, columns: int) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(depth, columns).to(torch.bfloat16).eval()
    x = torch.randn(16, depth).to(torch.bfloat16)
    executable = mlcflow.compile(layer, x)
    assert "x86." not in str(executable.stages["schedule"])
    assert "contraction" in rules(executable).values()
    with torch.no_grad():
        check_linear(layer, x, executable(x))


def i8_product(m: int, n: int, k: int) -> str:
    """A product of i8 that a frontend has widened to i32."""
    maps = "affine_map<(i, j) -> (i, j)>"
    widen = "".join(
        f"""
  %e{x} = tensor.empty() : tensor<{shape}xi32>
  %w{x} = linalg.generic {{indexing_maps = [{maps}, {maps}],
                         iterator_types = ["parallel", "parallel"]}}
      ins(%{x} : tensor<{shape}xi8>) outs(%e{x} : tensor<{shape}xi32>) {{
  ^bb0(%i: i8, %o: i32):
    %v = arith.extsi %i : i8 to i32
    linalg.yield %v : i32
  }} -> tensor<{shape}xi32>"""
        for x, shape in (("a", f"{m}x{k}"), ("b", f"{k}x{n}"))
    )
    return f"""
func.func @main(%a: tensor<{m}x{k}xi8>, %b: tensor<{k}x{n}xi8>) -> tensor<{m}x{n}xi32> {{{widen}
  %zero = arith.constant 0 : i32
  %e = tensor.empty() : tensor<{m}x{n}xi32>
  %f = linalg.fill ins(%zero : i32) outs(%e : tensor<{m}x{n}xi32>) -> tensor<{m}x{n}xi32>
  %r = linalg.matmul ins(%wa, %wb : tensor<{m}x{k}xi32>, tensor<{k}x{n}xi32>)
                     outs(%f : tensor<{m}x{n}xi32>) -> tensor<{m}x{n}xi32>
  return %r : tensor<{m}x{n}xi32>
}}"""


@needs_i8
@pytest.mark.parametrize("shape", [(16, 64, 32), (9, 50, 36), (1, 32, 8), (13, 16, 4)])
def test_integers_are_exact(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    random = np.random.default_rng(0)
    a, b = (random.integers(-128, 128, size, np.int8) for size in ((m, k), (k, n)))
    a[0], b[:, 0] = -128, -128
    executable = mlcflow.compile(i8_product(m, n, k))
    assert list(rules(executable).values()) == ["dot"]
    np.testing.assert_array_equal(executable(a, b), a.astype(np.int64) @ b.astype(np.int64))
    (name,) = rules(executable)
    assert "vpdpbusd" in str(assembly.find(executable, name))


@pytest.mark.parametrize("text", ["bf16", "i8"])
def test_other_targets_keep_wide_factors(text: str) -> None:
    source = i8_product(16, 64, 32)
    if text == "bf16":
        source = source.replace("extsi", "extf").replace("constant 0 :", "constant 0.0 :")
        source = re.sub(r"\bi8\b|(?<=x)i8", "bf16", re.sub(r"\bi32\b|(?<=x)i32", "f32", source))
    for target, expected in ((HASWELL, False), (Target.parse("cpu:sapphirerapids"), True)):
        module = mlir.parse(source)
        build_pipeline("cpu", target).run(module, until="schedule")
        assert ("x86.avx" in str(module)) == expected
        assert ('mlcflow.rule = "dot"' in str(module)) == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("avx10.2,avx512bw,avx512f,avx512vl,avx512vnni", "vpdpbssd zmm"),
        ("avx512bw,avx512f,avx512vl,avx512vnni", "vpdpbusd zmm"),
        ("avx2,avxvnni,avxvnniint8", "vpdpbssd ymm"),
        ("avx2,avxvnni", "vpdpbusd ymm"),
    ],
)
def test_machine_code_for_each_feature(features: str, expected: str) -> None:
    """LLVM takes what stage ``vectors`` chose, on whichever machine the test runs."""
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    names = features.split(",")
    bits = 512 if "avx512f" in names else 256
    target = replace(HASWELL, features=tuple(names), vector_bits=bits)
    module = Imported(mlir.parse(i8_product(16, 64, 32))).module
    build_pipeline("cpu", target).run(module)
    text = llvm.translate_module_to_llvmir(module.operation)
    machine = binding.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu="x86-64", features=",".join(f"+{name}" for name in names), opt=2
    )
    code = machine.emit_assembly(binding.parse_assembly(text))
    found = Counter(re.findall(r"(vpdp\w+).*%(\wmm)", code))
    assert {" ".join(each) for each in found} == {expected}


@needs_bf16
def test_extreme_numbers() -> None:
    """Infinities and NaN come out as such; a sum beyond f32 is infinite."""
    kind = ml_dtypes.bfloat16
    layer = torch.nn.Linear(4, 16, bias=False).to(torch.bfloat16).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.ones(16, 4))
    rows = [[np.inf, 1, 1, 1], [np.nan, 1, 1, 1], [3e38, 3e38, 3e38, 3e38], [np.inf, -np.inf, 0, 0]]
    x = torch.from_numpy(np.array(rows, np.float32)).to(torch.bfloat16)
    got = mlcflow.compile(layer, torch.ones(4, 4, dtype=torch.bfloat16))(x).float().numpy()
    np.testing.assert_array_equal(
        got[:, 0].astype(kind).astype(np.float32), [np.inf, np.nan, np.inf, np.nan]
    )
