"""Schedule rules, in the order in which they are tried: one a file."""

from __future__ import annotations

from mlcflow import plugins
from mlcflow.pipelines.schedules import contraction, convolution, elementwise, reduction
from mlcflow.schedule.rules import Rule

CPU: dict[str, Rule] = {
    "contraction": contraction.rule,
    "convolution": convolution.rule,
    "reduction": reduction.rule,
    "elementwise": elementwise.rule,
}


def cpu_rules() -> dict[str, Rule]:
    """The rules of pipeline ``cpu``: those of plug-ins, in alphabetical order, then ours.

    Raises ``PluginError`` when one does not load: to leave it out would change the code that
    a model becomes, and nobody would know.
    """
    taken = [*CPU, "loops"]  # what a kernel without a rule says
    found = plugins.names("schedules")
    return {name: plugins.find("schedules", name, taken).load() for name in found} | CPU
