"""Dialects defined in Python: one a file, listed here, loaded into every context."""

from __future__ import annotations

if not __name__.startswith("mlcflow."):
    raise ImportError(
        "import this package as 'mlcflow.dialects'; a second import as 'dialects' "
        "would define every dialect twice"
    )

from mlcflow.dialects import attributes, schedule
from mlcflow.mlir import ir

DIALECTS = {"mlcflow": attributes.load, "schedule": schedule.load}


def load_dialects(ctx: ir.Context) -> None:
    """Load every dialect of the table into a fresh context."""
    with ctx:
        for load in DIALECTS.values():
            load()
