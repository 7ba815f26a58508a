"""Schedule rules, in the order in which they are tried: one a file."""

from __future__ import annotations

from functools import partial

from mlcflow import plugins
from mlcflow.pipelines.schedules import (
    attention,
    contraction,
    convolution,
    copy,
    cuda_attention,
    cuda_contraction,
    cuda_convolution,
    cuda_elements,
    cuda_elementwise,
    cuda_rows,
    cuda_tensor_cores,
    cuda_warpgroups,
    dot,
    elementwise,
    reduction,
    rows,
    transposition,
    window,
    winograd,
)
from mlcflow.schedule.rules import Rule

CPU: dict[str, Rule] = {
    "attention": attention.rule,
    "convolution": convolution.rule,
    "window": window.rule,
    "contraction": contraction.rule,
    "dot": dot.rule,
    "rows": rows.rule,
    "reduction": reduction.rule,
    "elementwise": elementwise.rule,
    "winograd": winograd.rule,
    "transposition": transposition.rule,
    "copy": copy.rule,
}

CUDA: dict[str, Rule] = {
    "attention": cuda_attention.rule,
    "warpgroups": cuda_warpgroups.rule,
    "tensor_cores": cuda_tensor_cores.rule,
    "contraction": cuda_contraction.rule,
    "convolution": cuda_convolution.rule,
    "rows": cuda_rows.rule,
    "elementwise": cuda_elementwise.rule,
    "elements": cuda_elements.rule,
}


def cpu_rules() -> dict[str, Rule]:
    """The rules of pipeline ``cpu``: those of plug-ins, in alphabetical order, then ours.

    Raises ``PluginError`` when one does not load: to leave it out would change the code that
    a model becomes, and nobody would know.
    """
    taken = [*CPU, "loops"]  # what a kernel without a rule says
    found = plugins.names("schedules")
    return {name: plugins.find("schedules", name, taken).load() for name in found} | CPU


def cuda_rules(*, tf32: bool = False) -> dict[str, Rule]:
    """The rules of pipeline ``cuda``; with ``tf32`` f32 goes to the tensor cores as well."""
    if not tf32:
        return dict(CUDA)
    rules = {
        "attention": cuda_attention.rule,
        "tensor_cores": cuda_tensor_cores.rule,
        "convolution": cuda_convolution.rule,
    }
    return CUDA | {name: partial(rule, tf32=True) for name, rule in rules.items()}
