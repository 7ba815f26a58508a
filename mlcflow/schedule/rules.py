"""Applying schedule rules: each kernel gets the schedule of the first rule that has one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from mlcflow.graph.kernel import Kernel, find_kernels
from mlcflow.mlir import ir
from mlcflow.schedule import labels
from mlcflow.schedule.schedule import Schedule
from mlcflow.target import Target

log = logging.getLogger("mlcflow")

Rule = Callable[[Kernel, Target], Schedule | None]
"""Schedules the kernel and returns the schedule, or returns ``None`` and changes nothing."""


def apply_rules(rules: Mapping[str, Rule], target: Target) -> Callable[[ir.Module], None]:
    """A step that schedules every kernel by the first of ``rules`` that applies to it.

    A kernel without a rule is lowered to loops like in the reference pipeline; a remark says
    so. The name of the rule stays with the kernel as ``mlcflow.rule``.
    """

    def schedule_kernels(module: ir.Module) -> None:
        for kernel in find_kernels(module):
            if "mlcflow.rule" not in kernel.function.attributes:
                # The names that a schedule by hand has left: of blocks that are gone, too.
                labels.clear(kernel.function)
                rule = _first(rules, kernel, target)
                kernel.function.attributes["mlcflow.rule"] = ir.StringAttr.get(rule)
                labels.clear(kernel.function)

    return schedule_kernels


def _first(rules: Mapping[str, Rule], kernel: Kernel, target: Target) -> str:
    for name, rule in rules.items():
        if rule(kernel, target) is not None:
            return name
    log.info("kernel '%s' (%s): no rule applies, lowered to loops", kernel.name, kernel.kind)
    return "loops"
