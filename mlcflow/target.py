"""What code is generated for: a value that is passed around, never asked for in passing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mlcflow.errors import MlcflowError, unknown_name

_DEFAULT_CACHES = (32 << 10, 1 << 20, 8 << 20)
_OBJECT_FORMATS = {"Linux": "unknown-linux-gnu", "Darwin": "apple-darwin", "Windows": "pc-windows"}


@dataclass(frozen=True)
class Target:
    """A machine that code is generated for.

    ``kind``: ``"cpu"`` or ``"cuda"``. ``triple`` and ``chip``: as LLVM spells them.
    ``features``: sorted LLVM feature names (empty: whatever the chip has). ``vector_bits``:
    width of a vector register. ``vector_registers``: how many there are. ``caches``:
    bytes of L1 data, L2 and L3 as one core sees them. ``cores``: how many may be used.
    ``native``: the code runs where it is compiled, so LLVM uses every feature it finds there,
    named in ``features`` or not.

    Of a GPU, ``Target("cuda", chip="sm_90")`` fills in the rest: ``vector_bits`` is what a
    thread loads at once, ``vector_registers`` the registers of a thread, ``caches`` the shared
    memory of a block, L2, and 0, ``cores`` the multiprocessors of the usual model.
    """

    kind: str
    triple: str = ""
    chip: str = ""
    features: tuple[str, ...] = ()
    vector_bits: int = 0
    vector_registers: int = 0
    caches: tuple[int, int, int] = (0, 0, 0)
    cores: int = 0
    native: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "cuda"):
            raise MlcflowError(f"target kind: expected 'cpu' or 'cuda', got {self.kind!r}")
        if self.kind == "cuda" and not self.triple:
            if self.chip not in CUDA_CHIPS:
                raise MlcflowError(unknown_name("chip", self.chip, CUDA_CHIPS))
            for field, value in _of_chip(self.chip).items():
                object.__setattr__(self, field, value)
        if self.cores < 1:
            raise MlcflowError(f"target cores: expected at least 1, got {self.cores}")

    @staticmethod
    def host() -> Target:
        """Measure this machine."""
        from archspec import cpu

        # A virtual machine may be no model that archspec knows, and have more than the nearest.
        found = cpu.detect.detected_info().features
        target = _from_microarchitecture(cpu.host(), found)
        return replace(target, caches=_host_caches(), cores=_host_cores(), native=True)

    @staticmethod
    def host_gpu() -> Target:
        """The first GPU of this machine, as its driver describes it.

        Raises ``ExecutionError`` when there is no driver or no GPU.
        """
        from mlcflow.gpu.driver import open_driver

        return open_driver().target()

    @staticmethod
    def parse(text: str) -> Target:
        """``host``, or ``cpu:CHIP`` with a chip that archspec knows (``cpu:haswell``).

        ``cuda`` is the GPU of this machine, ``cuda:CHIP`` a chip of NVIDIA (``cuda:sm_90``).

        The caches and cores of a named chip are this machine's. Raises ``MlcflowError``.
        """
        from archspec import cpu

        if text in ("host", "cpu"):
            return Target.host()
        if text == "cuda":
            return Target.host_gpu()
        kind, _, chip = text.partition(":")
        if kind == "cuda":
            return Target("cuda", chip=chip)
        if kind != "cpu":
            raise MlcflowError(f"target: expected 'host', 'cpu:CHIP' or 'cuda:CHIP', got {text!r}")
        known = {name.replace("_", "-"): micro for name, micro in cpu.TARGETS.items()}
        if chip not in known:
            raise MlcflowError(unknown_name("chip", chip, known))
        target = _from_microarchitecture(known[chip])
        return replace(target, caches=_host_caches(), cores=_host_cores())

    def lanes(self, bits: int) -> int:
        """Elements of ``bits`` bits in one vector register, at least one."""
        return max(1, self.vector_bits // bits)

    def __str__(self) -> str:
        if self.kind == "cuda":
            return f"cuda:{self.chip}"
        return "host" if self.native else f"{self.kind}:{self.chip}"


CUDA_CHIPS: dict[str, tuple[str, int, int, int]] = {
    "sm_80": ("ptx70", 108, 163, 40),  # A100
    "sm_86": ("ptx71", 84, 99, 6),
    "sm_87": ("ptx74", 16, 163, 4),
    "sm_89": ("ptx78", 128, 99, 72),
    "sm_90": ("ptx80", 132, 227, 50),  # H100, H200
    "sm_90a": ("ptx80", 132, 227, 50),
    "sm_100": ("ptx86", 148, 227, 126),
    "sm_100a": ("ptx86", 148, 227, 126),
    "sm_120": ("ptx87", 170, 99, 96),
}
"""Chips of NVIDIA: the oldest PTX that knows them, multiprocessors of the largest model, KiB of
shared memory that a block can use, MiB of L2."""


def _of_chip(chip: str) -> dict[str, object]:
    ptx, cores, shared, l2 = CUDA_CHIPS[chip]
    return {
        "triple": "nvptx64-nvidia-cuda",
        "features": (ptx,),
        "vector_bits": 128,
        "vector_registers": 255,
        "caches": (shared << 10, l2 << 20, 0),
        "cores": cores,
    }


def _from_microarchitecture(micro: object, found: Iterable[str] = ()) -> Target:
    """A target from an ``archspec.cpu.Microarchitecture`` and features that are there besides."""
    names = set(micro.features) | set(found)  # type: ignore[attr-defined]
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
    "avx_vnni_int8": "avxvnniint8",
    "avx10.2": "avx10.2",
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
