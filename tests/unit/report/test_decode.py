"""Decoding an instruction that capstone does not know."""

from __future__ import annotations

import pytest

from mlcflow.report.decode import decode

capstone = pytest.importorskip("capstone")

ADD = "62 f1 7c 48 58 c1"  # vaddps zmm0, zmm0, zmm1
REGISTERS = "62 f2 76 48 52 c2"  # vdpbf16ps zmm0, zmm1, zmm2
BROADCAST = "62 f2 6e 58 52 44 24 10"  # vdpbf16ps zmm0, zmm2, dword ptr [rsp + 0x40]{1to16}
UNKNOWN = "62 f2 76 48 ff c2"
RETURN = "c3"


def decoded(*parts: str) -> list[str]:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    code = bytes.fromhex(" ".join(parts))
    found = list(decode(engine, code, 0x1000))
    addresses = [each.address for each in found]
    sizes = [each.size for each in found]
    assert addresses == [0x1000 + sum(sizes[:number]) for number in range(len(sizes))]
    return [f"{each.mnemonic} {each.op_str}".strip() for each in found]


def test_dot_products_have_their_operands() -> None:
    assert decoded(ADD, REGISTERS, BROADCAST, BROADCAST, RETURN) == [
        "vaddps zmm0, zmm0, zmm1",
        "vdpbf16ps zmm0, zmm1, zmm2",
        "vdpbf16ps zmm0, zmm2, dword ptr [rsp + 0x40]{1to16}",
        "vdpbf16ps zmm0, zmm2, dword ptr [rsp + 0x40]{1to16}",
        "ret",
    ]


def test_what_is_not_known_ends_it() -> None:
    assert decoded(ADD, UNKNOWN, RETURN) == ["vaddps zmm0, zmm0, zmm1"]
    assert decoded(REGISTERS[:11]) == []
