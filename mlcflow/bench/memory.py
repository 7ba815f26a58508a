"""How much memory this process takes, and took at most."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def resident() -> int:
    """Bytes in memory now; 0 where the system does not tell."""
    return _status("VmRSS")


def peak() -> int:
    """Bytes in memory at most since ``reset_peak``; 0 where the system does not tell."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Give back what is free, and start to measure the peak anew."""
    gc.collect()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def _status(key: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) << 10
    return 0
