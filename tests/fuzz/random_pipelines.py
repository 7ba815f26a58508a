"""Ways to compile the same model that must agree: other pipelines, rules, pass orders, targets."""

from __future__ import annotations

from dataclasses import replace

from random_programs import Choose

from mlcflow import Target
from mlcflow.passes import Pass
from mlcflow.pipeline import Pipeline, Stage, Step
from mlcflow.pipelines import build
from mlcflow.pipelines.schedules import cpu_rules
from mlcflow.schedule.rules import apply_rules

TIDY = (Pass("canonicalize"), Pass("cse"))
"""Passes that may stand anywhere between operations on tensors, or be left out."""
ON_TENSORS = ("simplify", "kernels", "schedule")


def variants(choose: Choose) -> list[tuple[str, Pipeline]]:
    """The reference, the usual pipeline, and one of which rules and tidying passes are drawn."""
    here = Target.host()
    return [
        ("reference", build("reference", here)),
        ("cpu", build("cpu", here)),
        varied(choose, here),
    ]


def varied(choose: Choose, here: Target) -> tuple[str, Pipeline]:
    """A pipeline that must agree with the others, and what is different about it."""
    bits = [each for each in (128, 256, 512) if each <= here.vector_bits]
    width = bits[choose(len(bits))]
    target = replace(here, vector_bits=width, cores=1 + choose(here.cores))
    exact = choose(3) == 0
    usual = build("cpu", target, fast_math=not exact)
    rules = {name: rule for name, rule in cpu_rules().items() if choose(4)}
    if exact:
        rules.pop("reduction", None)
    said = [f"{width} bits", f"{target.cores} threads", f"rules {','.join(rules) or 'none'}"]
    said += ["exact"] if exact else []
    stages = []
    for stage in usual.stages:
        steps: list[Step] = []
        for step in stage.steps:
            if getattr(step, "__name__", "") == "schedule_kernels":
                step = apply_rules(rules, target)
            if stage.name in ON_TENSORS and step in TIDY and choose(4) == 0:
                said.append(f"{stage.name} {len(steps)} without {step}")
                continue
            steps.append(step)
            if stage.name in ON_TENSORS[:2] and choose(12) == 0:
                steps.append(TIDY[choose(len(TIDY))])
                said.append(f"{stage.name} {len(steps)} {steps[-1]}")
        stages.append(Stage(stage.name, *steps))
    return "; ".join(said), replace(usual, stages=tuple(stages))
