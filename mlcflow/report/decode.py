"""Decoding machine code, with the instruction that capstone 5 does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class _Named:
    """An instruction of capstone under another name."""

    def __init__(self, instruction: Any, mnemonic: str) -> None:
        self.instruction, self.mnemonic = instruction, mnemonic

    def __getattr__(self, name: str) -> Any:
        return getattr(self.instruction, name)


def decode(engine: Any, code: bytes, start: int) -> Iterator[Any]:
    """The instructions of ``code``, which lies at the address ``start``; ``vdpbf16ps`` included.

    capstone stops at what it does not know. ``vdpbf16ps`` (EVEX.F3.0F38.W0 52) takes the same
    operands as ``vpdpwssd`` (EVEX.66.0F38.W0 52), as which it is decoded.
    """
    rest = bytearray(code)
    renamed: set[int] = set()
    at = 0
    while at < len(rest):
        for each in engine.disasm(bytes(rest[at:]), start + at):
            at = each.address + each.size - start
            yield _Named(each, "vdpbf16ps") if each.address in renamed else each
        if not _is_vdpbf16ps(bytes(rest[at : at + 5])):
            return
        renamed.add(start + at)
        rest[at + 2] ^= 0b11  # the prefix F3 (10) becomes 66 (01)


def _is_vdpbf16ps(code: bytes) -> bool:
    """Whether it starts with an EVEX prefix of map 0F38, F3 and W0, and the operation 52."""
    return (
        len(code) == 5
        and code[0] == 0x62
        and code[1] & 0b111 == 0b010
        and code[2] & 0b1000_0011 == 0b10
        and code[4] == 0x52
    )
