"""Pipelines, schedule rules and dialects of other packages, found by their entry points.

=====================  ==============================================================
entry-point group      what a name in it stands for
=====================  ==============================================================
``mlcflow.pipelines``  ``function(target, **options) -> Pipeline``
``mlcflow.schedules``  ``rule(kernel, target) -> Schedule | None``, for pipeline ``cpu``
``mlcflow.dialects``   ``load()``: loads the dialect of that name into the current context
``mlcflow.libraries``  ``function() -> Library``, for ``tensorize(block, "library:NAME")``
=====================  ==============================================================

What is installed is looked up once a process, when it is first asked for; a package is
imported when something of it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mlcflow import __version__
from mlcflow.errors import PluginError

KINDS = {
    "pipelines": "pipeline",
    "schedules": "schedule rule",
    "dialects": "dialect",
    "libraries": "library function",
}


@dataclass(frozen=True)
class Plugin:
    """One entry point. ``kind``: a key of ``KINDS``. ``package``: the distribution that has it."""

    kind: str
    name: str
    package: str
    version: str
    entry: metadata.EntryPoint

    def __str__(self) -> str:
        return f"{KINDS[self.kind]} '{self.name}' of package {self.package} {self.version}"

    def load(self) -> Callable[..., Any]:
        """Import it. Raises ``PluginError`` that says whose fault a failure is."""
        try:
            found = self.entry.load()
        except Exception as error:  # whatever the module of another package does
            raise self.broken(f"{type(error).__name__}: {error}") from error
        if not callable(found):
            raise self.broken(f"expected a function, got {type(found).__name__}")
        return found

    def broken(self, reason: str) -> PluginError:
        """The error for a package that is at fault."""
        return PluginError(
            f"{self} ({self.entry.value}) does not work: {reason}\n"
            f"  repair or update {self.package}, or remove it: pip uninstall {self.package}"
        )


def names(kind: str) -> list[str]:
    """The names that packages bring, in alphabetical order."""
    return sorted({plugin.name for plugin in installed() if plugin.kind == kind})


def find(kind: str, name: str, built_in: Collection[str]) -> Plugin:
    """The only one of that name, which ``names`` lists.

    Raises ``PluginError`` when two packages have it, or a package and mlcflow itself.
    """
    found = [plugin for plugin in installed() if (plugin.kind, plugin.name) == (kind, name)]
    if len(found) == 1 and name not in built_in:
        return found[0]
    owners = [f"{plugin.package} {plugin.version}" for plugin in found]
    if name in built_in:
        owners.insert(0, f"mlcflow {__version__}")
    choice = " or ".join(f"pip uninstall {plugin.package}" for plugin in found)
    raise PluginError(
        f"{KINDS[kind]} '{name}' is in more than one package: {', '.join(owners)}\n"
        f"  keep one: {choice}"
    )


@functools.cache
def installed() -> tuple[Plugin, ...]:
    """All plug-ins, sorted; of a distribution that is there twice, the first on the path."""
    entries = metadata.entry_points()
    found = [_plugin(kind, entry) for kind in KINDS for entry in entries.select(group=_group(kind))]
    return tuple(sorted(found, key=lambda plugin: (plugin.kind, plugin.name, plugin.package)))


def _group(kind: str) -> str:
    return f"mlcflow.{kind}"


def _plugin(kind: str, entry: metadata.EntryPoint) -> Plugin:
    assert entry.dist is not None  # set by entry_points()
    return Plugin(kind, entry.name, entry.dist.name, entry.dist.version, entry)
