"""Dialects defined in Python: one a file, listed here, loaded into every context.

Other packages add theirs by entry points (``mlcflow.plugins``).
"""

from __future__ import annotations

if not __name__.startswith("mlcflow."):
    raise ImportError(
        "import this package as 'mlcflow.dialects'; a second import as 'dialects' "
        "would define every dialect twice"
    )

import logging

from mlcflow import plugins
from mlcflow.dialects import attributes, schedule
from mlcflow.errors import PluginError
from mlcflow.mlir import ir

log = logging.getLogger("mlcflow")

DIALECTS = {"mlcflow": attributes.load, "schedule": schedule.load}

BROKEN: dict[str, str] = {}
"""The dialects of plug-ins that did not load in this process, and why."""


def load_dialects(ctx: ir.Context) -> None:
    """Load every dialect of the table, and of plug-ins, into a context that has none of them.

    A second time does nothing. Raises ``PluginError`` when a name is not clear. A dialect that
    does not load is left out with a warning: most modules do not need it, and what does ends
    in an error of MLIR that names the dialect.
    """
    if any(ctx.is_dialect_loaded(name) for name in DIALECTS):
        return
    for name in plugins.names("dialects"):
        # Before ours are loaded: then all that is there is upstream's, which is taken, too.
        taken = [*DIALECTS, *([name] if ctx.is_dialect_loaded(name) else [])]
        plugins.find("dialects", name, taken)
    with ctx:
        for load in DIALECTS.values():
            load()
        for name in plugins.names("dialects"):
            if name not in BROKEN:
                _load(plugins.find("dialects", name, DIALECTS), ctx)


def _load(plugin: plugins.Plugin, ctx: ir.Context) -> None:
    try:
        load = plugin.load()
        try:
            load()
        except Exception as error:  # whatever another package does
            raise plugin.broken(f"{type(error).__name__}: {error}") from error
        if not ctx.is_dialect_loaded(plugin.name):
            raise plugin.broken(f"it loads no dialect of the name '{plugin.name}'")
    except PluginError as error:
        BROKEN[plugin.name] = str(error)
        log.warning("%s", error)
