"""What decides about compiled code, as one number: the key of a compiled program."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlcflow import __version__, plugins
from mlcflow.frontends import Imported
from mlcflow.runtime.object_code import host_processor
from mlcflow.target import Target

_SOURCES = ("*.py", "*.mlir")


def cache_key(
    imported: Imported, pipeline: str, options: Mapping[str, Any], target: Target
) -> str | None:
    """The key of ``imported``, compiled by the pipeline of that name.

    A hash of the model, pipeline with options, target and processor, versions, and the sources
    of mlcflow and of the plug-ins: who changes a rule gets other code. ``None`` where something
    else may decide: a model that cannot be told, rules that were added in this process.
    """
    identity = imported.identity()
    if not identity or target.kind != "cpu" or _has_strange_rules():
        return None
    facts = {
        "model": hashlib.sha256(identity.encode()).hexdigest(),
        "trusted": imported.trusted,
        "pipeline": [pipeline, sorted((name, repr(value)) for name, value in options.items())],
        "target": asdict(target),
        "processor": [sys.platform, platform.machine(), *host_processor()],
        "versions": [__version__, sys.version, *map(_version, ("torch-mlir", "torch", "llvmlite"))],
        "sources": _sources(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@cache
def _sources() -> str:
    """A hash of the files of mlcflow and of all plug-ins, with the names they go by."""
    digest = hashlib.sha256()
    for name in ("mlcflow", "mlcflow.dialects", "mlcflow.pipelines"):
        _add_files(digest, name)
    for plugin in plugins.installed():
        digest.update(f"{plugin} {plugin.entry.value}\0".encode())
        _add_files(digest, plugin.entry.module.split(".")[0])
    return digest.hexdigest()


def _add_files(digest: Any, module: str) -> None:
    spec = find_spec(module)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = ((folder, f) for folder in folders for kind in _SOURCES for f in folder.rglob(kind))
    found = [(file.relative_to(folder).as_posix(), file) for folder, file in files]
    if spec and not folders and spec.origin:
        found = [(module, Path(spec.origin))]
    for name, path in sorted(found):
        content = path.read_bytes()
        digest.update(f"{module} {name} {len(content)}\0".encode() + content)


def _has_strange_rules() -> bool:
    """Whether a table holds functions that are neither ours nor a plug-in's."""
    from mlcflow.pipelines import PIPELINES
    from mlcflow.pipelines.schedules import CPU

    functions = [*PIPELINES.values(), *CPU.values()]
    return any(not f.__module__.startswith("mlcflow.") for f in functions)
