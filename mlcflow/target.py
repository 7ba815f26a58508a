"""What code is generated for: a value that is passed around, never asked for in passing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from mlcflow.errors import MlcflowError, unknown_name

_DEFAULT_CACHES = (32 << 10, 1 << 20, 8 << 20)
_OBJECT_FORMATS = {"Linux": "unknown-linux-gnu", "Darwin": "apple-darwin", "Windows": "pc-windows"}


@dataclass(frozen=True)
class Target:
    """A machine that code is generated for.

    ``kind``: ``"cpu"``. ``triple`` and ``chip``: as LLVM spells them. ``features``: sorted
    LLVM feature names (empty: whatever the chip has). ``vector_bits``: width of a vector
    register. ``vector_registers``: how many there are. ``caches``: bytes of L1 data, L2 and
    L3 as one core sees them. ``cores``: how many may be used. ``native``: the code runs where
    it is compiled, so LLVM uses every feature it finds there, named in ``features`` or not.
    """

    kind: str
    triple: str
    chip: str
    features: tuple[str, ...]
    vector_bits: int
    vector_registers: int
    caches: tuple[int, int, int]
    cores: int
    native: bool = False

    def __post_init__(self) -> None:
        if self.kind != "cpu":
            raise MlcflowError(f"target kind: expected 'cpu', got {self.kind!r}")
        if self.cores < 1:
            raise MlcflowError(f"target cores: expected at least 1, got {self.cores}")

    @staticmethod
    def host() -> Target:
        """Measure this machine."""
        from archspec import cpu

        target = _from_microarchitecture(cpu.host())
        return replace(target, caches=_host_caches(), cores=_host_cores(), native=True)

    @staticmethod
    def parse(text: str) -> Target:
        """``host``, or ``cpu:CHIP`` with a chip that archspec knows (``cpu:haswell``).

        The caches and cores of a named chip are this machine's. Raises ``MlcflowError``.
        """
        from archspec import cpu

        if text in ("host", "cpu"):
            return Target.host()
        kind, _, chip = text.partition(":")
        if kind != "cpu":
            raise MlcflowError(f"target: expected 'host' or 'cpu:CHIP', got {text!r}")
        known = {name.replace("_", "-"): micro for name, micro in cpu.TARGETS.items()}
        if chip not in known:
            raise MlcflowError(unknown_name("chip", chip, known))
        target = _from_microarchitecture(known[chip])
        return replace(target, caches=_host_caches(), cores=_host_cores())

    def lanes(self, bits: int) -> int:
        """Elements of ``bits`` bits in one vector register, at least one."""
        return max(1, self.vector_bits // bits)

    def __str__(self) -> str:
        return "host" if self.native else f"{self.kind}:{self.chip}"


def _from_microarchitecture(micro: object) -> Target:
    """A target from an ``archspec.cpu.Microarchitecture``."""
    names = set(micro.features)  # type: ignore[attr-defined]
    family = str(micro.family)  # type: ignore[attr-defined]
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= names
    if family.startswith("x86"):
        bits = 512 if wide else 256 if "avx" in names else 128
        features = tuple(sorted(_LLVM_X86[name] for name in names & set(_LLVM_X86)))
    else:
        bits, features = 128, ()
    machine = {"x86_64": "x86_64", "aarch64": "aarch64"}.get(family, family)
    return Target(
        kind="cpu",
        triple=f"{machine}-{_OBJECT_FORMATS.get(platform.system(), 'unknown-unknown')}",
        chip=str(micro.name).replace("_", "-"),  # type: ignore[attr-defined]
        features=features,
        vector_bits=bits,
        vector_registers=32 if wide or family == "aarch64" else 16,
        caches=_DEFAULT_CACHES,
        cores=1,
    )


# archspec's name -> LLVM's, for the features that change what the vectorizer may use.
_LLVM_X86 = {
    "sse4_2": "sse4.2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "popcnt": "popcnt",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
}


def _host_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _host_caches() -> tuple[int, int, int]:
    """L1 data, L2 and L3 bytes as Linux's sysfs tells them; usual sizes where it does not."""
    sizes = dict(zip((1, 2, 3), _DEFAULT_CACHES, strict=True))
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, kind, size = ((index / name).read_text() for name in ("level", "type", "size"))
        if kind.strip() != "Instruction" and size.strip().endswith("K"):
            sizes[int(level)] = int(size.strip()[:-1]) << 10
    return sizes[1], sizes[2], sizes[3]
