"""The only reader of the environment.

======================  ===============================================================
``MLCFLOW_DEBUG``       0 nothing (default), 1 stages and their time, 2 also steps,
                        3 also the IR after each stage, 4 also after each step
``MLCFLOW_DUMP_DIR``    directory that receives the IR after each stage, numbered
``MLCFLOW_CACHE_DIR``   directory of compiled programs, by default in the user's own place for
                        such things; empty: none are kept or taken
======================  ===============================================================
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from mlcflow.errors import MlcflowError


@dataclass(frozen=True)
class Config:
    """Settings of one process. ``debug``: 0 to 4. The directories: absolute, or ``None``."""

    debug: int = 0
    dump_dir: Path | None = None
    cache_dir: Path | None = None


def from_environment() -> Config:
    """Read the settings. Raises ``MlcflowError`` on a value that is not understood."""
    debug = os.environ.get("MLCFLOW_DEBUG", "0")
    if debug not in ("0", "1", "2", "3", "4"):
        raise MlcflowError(f"MLCFLOW_DEBUG: expected 0, 1, 2, 3 or 4, got {debug!r}")
    dump_dir = os.environ.get("MLCFLOW_DUMP_DIR")
    return Config(
        debug=int(debug),
        dump_dir=Path(dump_dir).expanduser().absolute() if dump_dir else None,
        cache_dir=_cache_dir(os.environ.get("MLCFLOW_CACHE_DIR")),
    )


def _cache_dir(given: str | None) -> Path | None:
    """The directory given, or the one where this system keeps a user's caches."""
    if given is not None:
        return Path(given).expanduser().absolute() if given else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if base and Path(base).is_absolute():  # the specification ignores others
            return Path(base) / "mlcflow"
        mac = Path.home() / "Library" / "Caches"
        return (mac if sys.platform == "darwin" else Path.home() / ".cache") / "mlcflow"
    except RuntimeError:  # the user has no home
        return None
