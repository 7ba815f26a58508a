"""Whether what other packages bring loads: the plug-ins as ``mlcflow doctor`` lists them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mlcflow import plugins
from mlcflow.errors import PluginError


@dataclass(frozen=True)
class State:
    """A plug-in by kind and name, the package that has it, and what is wrong, if anything."""

    kind: str
    name: str
    package: str
    problem: str


def check_plugins(*, load: bool) -> list[State]:
    """Every plug-in; with ``load``, each is imported, and dialects are loaded into a context."""
    found = plugins.installed()
    # Importing the tables takes MLIR, which nobody needs who has no plug-in.
    taken = _built_in() if found and load else {}
    return [
        State(
            plugins.KINDS[plugin.kind],
            plugin.name,
            f"{plugin.package} {plugin.version}",
            _problem(plugin, taken[plugin.kind]) if load else "",
        )
        for plugin in found
    ]


def _built_in() -> dict[str, Collection[str]]:
    from mlcflow.dialects import DIALECTS
    from mlcflow.pipelines import PIPELINES
    from mlcflow.pipelines.schedules import CPU
    from mlcflow.runtime.blas import FUNCTIONS

    return {
        "pipelines": PIPELINES,
        "schedules": [*CPU, "loops"],
        "dialects": DIALECTS,
        "libraries": FUNCTIONS,
    }


def _problem(plugin: plugins.Plugin, taken: Collection[str]) -> str:
    from mlcflow import mlir
    from mlcflow.dialects import BROKEN

    try:
        plugins.find(plugin.kind, plugin.name, taken).load()
        if plugin.kind == "dialects" and plugin.name not in BROKEN:
            mlir.context()
    except PluginError as error:
        return str(error)
    return BROKEN.get(plugin.name, "") if plugin.kind == "dialects" else ""
