"""LLVM IR as text, from the LLVM of the MLIR bindings for that of llvmlite.

The bindings carry no code generator for GPUs; llvmlite does, in an older LLVM. The only
difference found in what the two read is how floating-point constants are written: the newer
one prints ``+inf``, ``-qnan``, ``+nan(0x1)``, ``f0x3F800001``, and decimals that are not exact.
"""

from __future__ import annotations

import re
import struct

import ml_dtypes
import numpy as np

_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}
_MANTISSA = {"half": 10, "bfloat": 7, "float": 23, "double": 52}
_TOKEN = re.compile(
    r'(?P<string>c?"[^"]*")'
    r"|(?<![\w%@.!$-])(?P<kind>half|bfloat|float|double)\b(?!:)"
    r"|(?<![\w%@.!$-])(?P<special>[+-](?:inf|qnan|s?nan\(0x[0-9a-fA-F]+\)))(?!\w)"
    r"|(?<![\w%@.!$-])f0x(?P<hex>[0-9A-Fa-f]+)\b"
    r"|(?<![\w%@.!$])(?P<decimal>-?\d+\.\d+(?:e[+-]\d+)?)\b"
)

_ASSEMBLY = re.compile(r'(\bcall .* asm sideeffect "[^"]*", "[^"]*"\(.*\))')


def rewrite_constants(text: str) -> str:
    """LLVM IR with each floating-point constant in hexadecimal, as every LLVM reads it.

    A constant has the type that stands last before it on its line.
    """
    return "\n".join(_rewrite_line(line) for line in text.split("\n"))


def mark_convergent(text: str) -> str:
    """LLVM IR whose inline assembly stays where all threads of a warp come together.

    That is what ``convergent`` says, which the bindings cannot (``llvm.inline_asm`` has no such
    attribute, llvm/llvm-project#221990); else LLVM may copy it into the arms of a branch.
    """
    return _ASSEMBLY.sub(r"\1 convergent", text)


def _rewrite_line(line: str) -> str:
    kind = "double"

    def replace(match: re.Match[str]) -> str:
        nonlocal kind
        if match["string"] is not None:
            return match[0]
        if match["kind"]:
            kind = match["kind"]
            return match[0]
        if match["special"]:
            return _hexadecimal(kind, _special(kind, match["special"]))
        if match["hex"]:
            return _hexadecimal(kind, int(match["hex"], 16))
        return _hexadecimal(kind, _decimal(kind, match["decimal"]))

    return _TOKEN.sub(replace, line)


def _special(kind: str, text: str) -> int:
    """The bits of an infinity or of something that is not a number."""
    mantissa, sign = _MANTISSA[kind], int(text[0] == "-") << (_BITS[kind] - 1)
    exponent = ((1 << (_BITS[kind] - 1)) - 1) >> mantissa << mantissa
    quiet, payload = 1 << (mantissa - 1), 0
    if "(" in text:
        payload = int(text[text.index("(") + 1 : -1], 16)
    if text[1:] == "inf":
        return sign | exponent
    return sign | exponent | payload | (0 if text[1:].startswith("snan") else quiet)


def _decimal(kind: str, text: str) -> int:
    """The bits of the number of that type which is nearest to a decimal."""
    if kind == "half":
        return int(np.float16(text).view(np.uint16))
    if kind == "bfloat":
        return int(np.asarray(float(text), ml_dtypes.bfloat16).view(np.uint16))
    if kind == "float":
        return int(np.float32(text).view(np.uint32))
    return int(np.float64(text).view(np.uint64))


def _hexadecimal(kind: str, bits: int) -> str:
    """How LLVM writes these bits: a float as the double of the same value."""
    if kind == "half":
        return f"0xH{bits:04X}"
    if kind == "bfloat":
        return f"0xR{bits:04X}"
    return f"0x{_widened(bits) if kind == 'float' else bits:016X}"


def _widened(bits: int) -> int:
    """The bits of the double with the value of a float."""
    if bits & 0x7F800000 == 0x7F800000:  # what is not a number keeps its payload
        return (bits >> 31) << 63 | 0x7FF << 52 | (bits & 0x7FFFFF) << 29
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    (wide,) = struct.unpack("<Q", struct.pack("<d", value))
    return int(wide)
