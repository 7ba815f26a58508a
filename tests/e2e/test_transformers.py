"""Whole models of the transformers library, small and with random weights."""

from __future__ import annotations

import pytest
import torch
from model_ir import calls, count, kernel_rules

import mlcflow

transformers = pytest.importorskip("transformers")

IDS = torch.arange(32).reshape(2, 16) % 97
ATTENTION = torch.ones(2, 16, dtype=torch.int64)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


class Logits(torch.nn.Module):
    """A model by its first result, as a function of tensors."""

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, *tensors):
        return self.model(*tensors, **self.options, return_dict=False)[0]


def bert():
    config = transformers.BertConfig(**SMALL, intermediate_size=64, vocab_size=97)
    return Logits(transformers.BertModel(config)), (IDS, ATTENTION)


def gpt2():
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=97, n_positions=32)
    return Logits(transformers.GPT2LMHeadModel(config), use_cache=False), (IDS,)


def llama():
    config = transformers.LlamaConfig(
        **SMALL, intermediate_size=64, vocab_size=97, num_key_value_heads=2
    )
    return Logits(transformers.LlamaForCausalLM(config), use_cache=False), (IDS,)


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=5
    )
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    return Logits(transformers.ResNetForImageClassification(config)), (images,)


def vit():
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    return Logits(transformers.ViTModel(config)), (images,)


@pytest.mark.parametrize("build", [bert, gpt2, llama, resnet, vit], ids=lambda b: b.__name__)
def test_model(pipeline, build):
    torch.manual_seed(0)
    model, inputs = build()
    model.eval()
    executable = mlcflow.compile(model, *inputs, pipeline=pipeline, verify=False)
    with torch.no_grad():
        expected = model(*inputs)
    assert len(executable.parameters) >= 10
    if pipeline == "cpu":
        rules = kernel_rules(executable)
        layers = sum(calls(executable, "kernels").values())
        assert build is resnet or len(rules) < layers  # equal layers share their kernels
        assert build is resnet or {"contraction", "attention"} <= set(rules.values())
        assert count(executable, "bufferize", "memref.alloc") == 0
    torch.testing.assert_close(executable(*inputs), expected, rtol=1e-3, atol=1e-4)
    changed = tuple(x.flip(0) for x in inputs)
    with torch.no_grad():
        expected = model(*changed)
    torch.testing.assert_close(executable(*changed), expected, rtol=1e-3, atol=1e-4)
