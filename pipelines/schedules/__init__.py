"""Schedule rules, in the order in which they are tried: one a file."""

from __future__ import annotations

from mlcflow.pipelines.schedules import contraction, elementwise, reduction
from mlcflow.schedule.rules import Rule

CPU: dict[str, Rule] = {
    "contraction": contraction.rule,
    "reduction": reduction.rule,
    "elementwise": elementwise.rule,
}
