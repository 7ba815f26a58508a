"""Small models of the transformers library, with random weights: one kernel for each attention."""

from __future__ import annotations

import re

import pytest
import torch
from test_transformers import IDS, Logits, bert, gpt2, vit

transformers = pytest.importorskip("transformers")


def llama():
    """Two heads of Q to one of K and V."""
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, vocab_size=97,
    )  # fmt: skip
    return Logits(transformers.LlamaForCausalLM(config), use_cache=False), (IDS,)


@pytest.mark.parametrize("make", [bert, gpt2, llama, vit], ids=lambda make: make.__name__)
def test_model(build, gpu, make):
    torch.manual_seed(0)
    model, inputs = make()
    model.eval()
    executable = build(model, *inputs)
    result = executable(*inputs)
    with torch.no_grad():
        expected = model(*inputs)
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
    calls = re.findall(r"call @(attention\w*)\(", str(executable.stages["kernels"]))
    assert len(calls) == 2  # a layer each
