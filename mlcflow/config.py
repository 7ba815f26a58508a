"""The only reader of the environment.

======================  ===============================================================
``MLCFLOW_DEBUG``       0 nothing (default), 1 stages and their time, 2 also steps,
                        3 also the IR after each stage, 4 also after each step
``MLCFLOW_DUMP_DIR``    directory that receives the IR after each stage, numbered
======================  ===============================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mlcflow.errors import MlcflowError


@dataclass(frozen=True)
class Config:
    """Settings of one process. ``debug``: 0 to 4. ``dump_dir``: absolute, or ``None``."""

    debug: int = 0
    dump_dir: Path | None = None


def from_environment() -> Config:
    """Read the settings. Raises ``MlcflowError`` on a value that is not understood."""
    debug = os.environ.get("MLCFLOW_DEBUG", "0")
    if debug not in ("0", "1", "2", "3", "4"):
        raise MlcflowError(f"MLCFLOW_DEBUG: expected 0, 1, 2, 3 or 4, got {debug!r}")
    dump_dir = os.environ.get("MLCFLOW_DUMP_DIR")
    return Config(
        debug=int(debug),
        dump_dir=Path(dump_dir).expanduser().absolute() if dump_dir else None,
    )
