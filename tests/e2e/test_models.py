"""Small models through the cpu pipeline: first what became of the IR, then the numbers."""

from __future__ import annotations

import torch
from model_ir import calls, count, kernel_rules

import mlcflow


def _compare(exe: mlcflow.Executable, model: torch.nn.Module, *inputs: torch.Tensor) -> None:
    """On inputs that the compilation has not seen."""
    torch.manual_seed(1)
    fresh = [torch.randn_like(x) for x in inputs]
    with torch.no_grad():
        torch.testing.assert_close(exe(*fresh), model(*fresh), rtol=1e-3, atol=1e-4)


def test_mlp_is_a_kernel_a_layer():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)]
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(8, 64)
    exe = mlcflow.compile(model, x)
    rules = kernel_rules(exe)
    assert len(rules) == 2
    assert set(rules.values()) == {"contraction"}
    assert [port.name for port in exe.inputs] == ["input"]
    assert count(exe, "bufferize", "memref.alloc") == 0
    assert count(exe, "bufferize", "memref.copy") == 0
    assert count(exe, "bufferize", "memref.view") == 1  # what is between the layers
    _compare(exe, model, x)


def test_equal_layers_are_one_kernel():
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU()) for _ in range(6)]
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(8, 32)
    exe = mlcflow.compile(model, x)
    assert list(calls(exe, "kernels").values()) == [6]
    _compare(exe, model, x)


def test_batch_norm_is_prepared_and_fused_into_the_convolution():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.MaxPool2d(2), torch.nn.Flatten())
    model, x = model.eval(), torch.randn(2, 3, 8, 8)
    exe = mlcflow.compile(model, x)
    kernels = list(kernel_rules(exe))
    assert sum(name.startswith("conv") for name in kernels) == 1
    assert not any("sqrt" in name for name in kernels)  # 1 / sqrt(variance) is in @prepare
    assert count(exe, "bufferize", "memref.alloc") == 0
    _compare(exe, model, x)


def test_lstm_steps_share_their_kernels():
    torch.manual_seed(0)
    model, x = torch.nn.LSTM(16, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    exe = mlcflow.compile(model, x)
    assert max(calls(exe, "kernels").values()) >= 5  # one of them is called at every step
    assert "contraction" in kernel_rules(exe).values()
    with torch.no_grad():
        fresh = torch.randn_like(x)
        torch.testing.assert_close(exe(fresh), model(fresh), rtol=1e-3, atol=1e-4)


def test_transformer_block_has_its_products_with_their_epilogues():
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    x = torch.randn(2, 16, 32)
    exe = mlcflow.compile(model, x)
    rules = kernel_rules(exe)
    products = [name for name, rule in rules.items() if rule == "contraction"]
    assert len(products) >= 4
    assert any("select" in name for name in products)  # the ReLU of the feed-forward layer
    assert {"attention", "rows"} <= set(rules.values())
    assert count(exe, "bufferize", "memref.alloc") == 0
    _compare(exe, model, x)
