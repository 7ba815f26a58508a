"""What makes kernels fast, read from their instructions: it holds on a machine of any load.

Times are measured by ``mlcflow bench``; a test of times would fail whenever something else runs.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from model_ir import calls, count, kernel_rules

import mlcflow
from mlcflow import Target
from mlcflow.report.assembly import HotLoop, functions, hot_loop
from mlcflow.report.slow import read_facts

pytestmark = [
    pytest.mark.skipif(
        not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="reads x86-64 code"
    ),
    pytest.mark.skipif("fma" not in Target.host().features, reason="needs FMA"),
]
TARGET = Target.host()


def compile_model(model: Callable, *inputs: torch.Tensor, cores: int = 2) -> mlcflow.Executable:
    torch.manual_seed(0)
    model = model.eval() if isinstance(model, torch.nn.Module) else model
    return mlcflow.compile(model, *inputs, target=replace(TARGET, cores=cores))


def loop_of_rule(executable: mlcflow.Executable, rule: str) -> HotLoop:
    """The loop of the only kernel that ``rule`` scheduled."""
    (name,) = (name for name, found in kernel_rules(executable).items() if found == rule)
    return hot_loop(functions(executable)[name])


def nothing() -> torch.nn.Module:
    return torch.nn.Identity()


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(
    "epilogue", [nothing, torch.nn.ReLU, torch.nn.GELU], ids=lambda e: e.__name__
)
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(256, 256, 256), (33, 769, 1531), (4, 512, 640)]
)
def test_products_stay_in_registers(
    rows: int, inner: int, columns: int, epilogue: Callable, cores: int
) -> None:
    """The loop over the reduction multiplies and adds whole registers, and stores nothing."""
    model = torch.nn.Sequential(torch.nn.Linear(inner, columns), epilogue())
    check_product(
        loop_of_rule(compile_model(model, torch.randn(rows, inner), cores=cores), "contraction")
    )


def test_products_of_activations_stay_in_registers() -> None:
    two = (torch.randn(256, 384), torch.randn(384, 512))
    check_product(loop_of_rule(compile_model(torch.matmul, *two), "contraction"))
    batches = (torch.randn(12, 128, 64), torch.randn(12, 64, 128))
    check_product(loop_of_rule(compile_model(torch.bmm, *batches), "contraction"))


@pytest.mark.parametrize("kernel", [1, 5])
def test_convolutions_stay_in_registers(kernel: int) -> None:
    model = torch.nn.Conv2d(64, 64, kernel, padding=kernel // 2)
    loop = loop_of_rule(compile_model(model, torch.randn(1, 64, 56, 56)), "convolution")
    check_product(loop)


def check_product(loop: HotLoop) -> None:
    assert loop.is_loop
    assert set(loop.arithmetic) == set(loop.fmas) == {TARGET.vector_bits}
    assert loop.stores == loop.spills == 0 and not loop.calls
    # A loaded register is used more than once, or memory would be the limit.
    assert loop.loads <= 1.2 * loop.fmas[TARGET.vector_bits]


FUNCTIONS = {
    "gelu": torch.nn.GELU(),
    "gelu_tanh": torch.nn.GELU(approximate="tanh"),
    "silu": torch.nn.SiLU(),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "exp": torch.exp,
    "log": torch.log,
    "softmax": torch.nn.Softmax(-1),
    "layer_norm": torch.nn.LayerNorm(512),
    "rms_norm": torch.nn.RMSNorm(512),
    "log_softmax": torch.nn.LogSoftmax(-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_computed_in_vectors(name: str) -> None:
    """No kernel calls the mathematics library, and most arithmetic is on whole registers."""
    executable = compile_model(FUNCTIONS[name], torch.rand(512, 512) + 0.5)
    facts = read_facts(executable)
    rules = kernel_rules(executable)
    assert rules
    for kernel, rule in rules.items():
        assert not facts[kernel].calls, f"{kernel} calls {facts[kernel].calls}"
        if rule != "loops":
            assert facts[kernel].widest == TARGET.vector_bits, kernel


@pytest.mark.parametrize(
    ("name", "spills"), [("silu", 0), ("tanh", 0), ("exp", 0), ("log", 4), ("gelu", 21)]
)
def test_elementwise_loops_hardly_spill(name: str, spills: int) -> None:
    """Polynomials with many coefficients read some of them from the stack."""
    loop = loop_of_rule(compile_model(FUNCTIONS[name], torch.rand(512, 512)), "elementwise")
    assert loop.is_loop and loop.spills <= spills
    assert set(loop.arithmetic) == {TARGET.vector_bits}


def bert_layer() -> tuple[torch.nn.Module, torch.Tensor]:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    config = BertConfig(hidden_size=128, num_attention_heads=4, intermediate_size=256)
    config._attn_implementation = "sdpa"
    return BertLayer(config), torch.randn(1, 32, 128)


def resnet_block() -> tuple[torch.nn.Module, torch.Tensor]:
    from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

    return ResNetBottleNeckLayer(64, 128, stride=2), torch.randn(1, 64, 28, 28)


def mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    first, second = torch.nn.Linear(784, 512), torch.nn.Linear(512, 512)
    layers = [first, torch.nn.ReLU(), second, torch.nn.ReLU(), torch.nn.Linear(512, 10)]
    return torch.nn.Sequential(*layers), torch.randn(32, 784)


# Calls of kernels and copies, at most: fewer is better, and then the number here goes down. The
# copy is that of a result whose shape changes last.
MODELS = {mlp: (3, 0), resnet_block: (7, 1), bert_layer: (17, 1)}


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_kernels_copies_and_memory_of_a_model(build: Callable) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, x = build()
    executable = compile_model(model, x)
    called = calls(executable, "kernels")
    kernels, copies = MODELS[build]
    assert sum(called.values()) <= kernels, called
    assert count(executable, "bufferize", "memref.alloc") == 0
    assert count(executable, "bufferize", "memref.copy") <= copies
    main = functions(executable)["main"]
    assert not {"malloc", "free", "memcpy", "aligned_alloc"} & set(main.calls), main.calls
    # What is no kernel computes nothing.
    assert not [each.text for each in main.instructions if each.arithmetic_bits > 64]


def test_equal_layers_share_their_kernels() -> None:
    """Twelve layers are as many functions as one: compile time does not grow with depth."""
    pytest.importorskip("transformers")
    layer, x = bert_layer()
    one = set(calls(compile_model(layer, x), "kernels"))
    config = layer.attention.self.config
    two = torch.nn.Sequential(layer, type(layer)(config))
    both = calls(compile_model(two, x), "kernels")
    assert len(both) == len(one)
    assert all(number % 2 == 0 for number in both.values()), both
