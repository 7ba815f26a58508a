"""The instructions of a compiled function: disassembled, and its hot loop counted.

pyelftools reads the object that LLVM made, capstone disassembles it. x86-64 ELF objects only,
which is what LLVM makes on Linux: elsewhere these functions raise ``MlcflowError``.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mlcflow.errors import MlcflowError, unknown_name
from mlcflow.report.decode import decode

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable

WRAPPER = "_mlir_"
"""What the names of the functions begin with through which MLIR calls the others."""
REGION = "..omp_par"
"""What follows the name of a function in the names of its parallel regions."""
_RUNTIME = ("mlcflow_", "__kmpc_")

_ARITHMETIC = re.compile(
    r"v?(?:fn?m(?:add|sub)\w*|dp\w+|add|sub|mul|div|max|min|sqrt|rcp\d*|rsqrt\d*|round|rndscale)"
    r"(?P<type>ps|pd|ph|ss|sd|sh|bf16ps)$"
    r"|vp(?:add|sub|mul\w*|madd\w*|dp\w*|max\w*|min\w*)(?P<integer>[bwdq]\w*)$"
)
_FMA = re.compile(r"vfn?m(?:add|sub)(?:132|213|231)(?P<type>[ps][sdh])$")
_SCALAR_BITS = {"ss": 32, "sd": 64, "sh": 16}
_READS_ITS_FIRST_OPERAND_ONLY = ("cmp", "test", "push", "jmp", "call", "bt", "ucomi", "comi")
_NO_ACCESS = ("lea", "nop", "prefetch")


@dataclass(frozen=True)
class Instruction:
    """One instruction as text, and what of it counts.

    ``target``: the address that a jump goes to, -1 for none. ``call``: what it calls, or jumps
    to as its last deed; ``?`` where that is known at run time only.
    ``fma_bits`` and ``arithmetic_bits``: width of the fused multiply-add, or of any floating
    or vector arithmetic; 0 for none. ``stack``: whether its memory is on the stack.
    """

    address: int
    text: str
    target: int = -1
    call: str = ""
    fma_bits: int = 0
    arithmetic_bits: int = 0
    loads: bool = False
    stores: bool = False
    stack: bool = False


@dataclass(frozen=True)
class HotLoop:
    """Where a function spends its time, as far as its instructions tell.

    Of the innermost loops that compute, the most deeply nested; of those, the one with the
    widest and most arithmetic. The whole function if it has no loop (then ``is_loop`` is false).
    ``fmas``: fused multiply-adds of one iteration by the width of their registers in bits,
    scalars as 32 or 64; ``arithmetic``: all of it, likewise. ``loads`` and ``stores`` include
    ``spills``, those of the stack. ``calls``: the functions it calls, mostly of the C
    mathematics library.
    """

    function: str
    is_loop: bool
    fmas: Mapping[int, int]
    arithmetic: Mapping[int, int]
    loads: int
    stores: int
    spills: int
    calls: tuple[str, ...]
    instructions: tuple[Instruction, ...]

    @property
    def text(self) -> str:
        """The instructions, a line each."""
        return "\n".join(instruction.text for instruction in self.instructions)

    def __str__(self) -> str:
        others = {bits: n - self.fmas.get(bits, 0) for bits, n in self.arithmetic.items()}
        words = [
            f"FMA {_by_width(self.fmas)}",
            f"other arithmetic {_by_width(others)}" if any(others.values()) else "",
            f"{self.loads} loads, {self.stores} stores, {self.spills} spills",
            "calls " + ", ".join(dict.fromkeys(self.calls)) if self.calls else "no calls",
            f"{len(self.instructions)} instructions" + ("" if self.is_loop else ", no loop"),
        ]
        return "; ".join(word for word in words if word)


def _by_width(counts: Mapping[int, int]) -> str:
    widest = sorted(counts.items(), reverse=True)
    return " + ".join(f"{n} x {bits} bit" for bits, n in widest if n) or "none"


@dataclass(frozen=True)
class Function:
    """The instructions of one function of an object, by address."""

    name: str
    instructions: tuple[Instruction, ...]

    @property
    def calls(self) -> tuple[str, ...]:
        """What it calls, each call once, in order."""
        return tuple(each.call for each in self.instructions if each.call)

    @cached_property
    def loops(self) -> list[tuple[int, tuple[Instruction, ...]]]:
        """The innermost loops, from the target of a backward jump to the jump, with their depth."""
        spans = {i.target: i.address for i in self.instructions if self._is_back(i)}
        around = {
            span: [o for o in spans.items() if o != span and o[0] <= span[0] and span[1] <= o[1]]
            for span in spans.items()
        }
        outer = {other for others in around.values() for other in others}
        return [
            (
                len(others) + 1,
                tuple(i for i in self.instructions if span[0] <= i.address <= span[1]),
            )
            for span, others in sorted(around.items())
            if span not in outer
        ]

    def _is_back(self, instruction: Instruction) -> bool:
        first = self.instructions[0].address
        return first <= instruction.target <= instruction.address

    def __str__(self) -> str:
        targets = {i.target for i in self.instructions}
        lines = [f"{self.name}:"]
        for each in self.instructions:
            lines += [f"L{each.address:x}:"] if each.address in targets else []
            lines.append(f"  {each.text}")
        return "\n".join(lines)


def hot_loop(function: Function) -> HotLoop:
    """The loop of ``function`` that does its work; see :class:`HotLoop`."""

    def work(loop: tuple[int, tuple[Instruction, ...]]) -> tuple[bool, int, int, int]:
        # A call in an innermost loop is a function of the mathematics library per element.
        depth, body = loop
        calls = sum(bool(each.call) for each in body)
        bits = sum(each.arithmetic_bits for each in body)
        return bool(bits or calls), depth, bits, calls

    whole = (0, function.instructions)
    body = max(function.loops, key=work, default=whole)[1]
    fmas = Counter(each.fma_bits for each in body if each.fma_bits)
    arithmetic = Counter(each.arithmetic_bits for each in body if each.arithmetic_bits)
    return HotLoop(
        function=function.name,
        is_loop=bool(function.loops),
        fmas=dict(fmas),
        arithmetic=dict(arithmetic),
        loads=sum(each.loads for each in body),
        stores=sum(each.stores for each in body),
        spills=sum(each.stack for each in body),
        calls=tuple(each.call for each in body if each.call),
        instructions=body,
    )


def functions(executable: Executable) -> dict[str, Function]:
    """The functions of the module behind ``executable``, by name, disassembled.

    Compiles the module once more, since the code in memory is kept without its object.
    """
    from mlcflow.runtime.machine_code import compile_object

    module = executable.stages.records[-1].module
    found = disassemble(compile_object(module, executable.pipeline.opt_level))
    names = [name for name in found if not name.startswith((WRAPPER, *_RUNTIME))]
    return _with_regions({name: found[name] for name in names})


def _with_regions(found: Mapping[str, Function]) -> dict[str, Function]:
    """The functions, each with the instructions of its parallel regions.

    LLVM's translation makes a function ``NAME..omp_par`` of each region of ``NAME``.
    """
    whole: dict[str, list[Instruction]] = {}
    for name, each in found.items():
        whole.setdefault(name.split(REGION)[0], []).extend(each.instructions)
    by_address = attrgetter("address")
    return {
        name: Function(name, tuple(sorted(parts, key=by_address))) for name, parts in whole.items()
    }


def find(executable: Executable, kernel: str) -> Function:
    """The function called ``kernel``. Raises ``MlcflowError`` with the near misses."""
    known = functions(executable)
    if kernel not in known:
        raise MlcflowError(unknown_name("function", kernel, known, of="the compiled module"))
    return known[kernel]


def disassemble(code: bytes) -> dict[str, Function]:
    """The functions of an x86-64 ELF object. Raises ``MlcflowError`` for another one."""
    elf_file, capstone = _libraries()
    if not code.startswith(b"\x7fELF"):
        raise MlcflowError("assembly: expected an ELF object, as LLVM makes on Linux")
    elf = elf_file(io.BytesIO(code))
    if elf.header["e_machine"] != "EM_X86_64":
        raise MlcflowError(f"assembly: expected x86-64 code, found {elf.header['e_machine']}")
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    names: dict[int, dict[int, str]] = {}  # by section: a model has hundreds of functions in one
    found = {}
    for symbol in elf.get_section_by_name(".symtab").iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
            section, start = symbol["st_shndx"], symbol["st_value"]
            if section not in names:
                names[section] = _relocations(elf, section)
            data = elf.get_section(section).data()[start : start + symbol["st_size"]]
            decoded = decode(engine, data, start)
            found[symbol.name] = _read(symbol.name, decoded, names[section], capstone)
    return found


def _libraries() -> tuple[Any, Any]:
    try:
        import capstone
        from elftools.elf.elffile import ELFFile
    except ModuleNotFoundError as e:
        raise MlcflowError(f"assembly: needs {e.name}: pip install 'mlcflow[report]'") from e
    return ELFFile, capstone


def _relocations(elf: Any, section: int) -> dict[int, str]:
    """The symbol that the linker puts at an offset of the section."""
    symbols = elf.get_section_by_name(".symtab")
    return {
        entry["r_offset"]: symbols.get_symbol(entry["r_info_sym"]).name
        for table in elf.iter_sections()
        if table["sh_type"] == "SHT_RELA" and table["sh_info"] == section
        for entry in table.iter_relocations()
    }


def _read(name: str, decoded: Any, names: Mapping[int, str], capstone: Any) -> Function:
    instructions = []
    addresses: dict[str, str] = {}  # register -> the function whose address it was given
    frame = {"rsp"}
    for each in decoded:
        span = range(each.address, each.address + each.size)
        symbol = next((names[at] for at in span if names.get(at)), "")
        text = f"{each.mnemonic} {each.op_str}".strip()
        if text == "mov rbp, rsp":
            frame.add("rbp")
        elif each.mnemonic in ("movabs", "mov") and symbol:
            register = each.op_str.split(",")[0]
            addresses[register], text = symbol, f"{each.mnemonic} {register}, {symbol}"
        instructions.append(_instruction(each, text, symbol, addresses, frame, capstone))
    return Function(name, tuple(instructions))


def _instruction(
    each: Any, text: str, symbol: str, addresses: Mapping[str, str], frame: set[str], capstone: Any
) -> Instruction:
    x86 = capstone.x86
    mnemonic, operands = each.mnemonic, each.operands
    jumps = each.group(capstone.CS_GRP_JUMP) and operands and operands[0].type == x86.X86_OP_IMM
    call = symbol or addresses.get(each.op_str, "") if mnemonic in ("call", "jmp") else ""
    memory = [n for n, o in enumerate(operands) if o.type == x86.X86_OP_MEM]
    stores = loads = stack = False
    if memory and not mnemonic.startswith(_NO_ACCESS):
        first = memory[0] == 0
        stores = first and not mnemonic.removeprefix("v").startswith(_READS_ITS_FIRST_OPERAND_ONLY)
        loads = not stores or not ("mov" in mnemonic or mnemonic.startswith("vextract"))
        stack = each.reg_name(operands[memory[0]].mem.base) in frame
    if not stores and mnemonic in ("push", "pop"):
        stack, stores, loads = True, mnemonic == "push", mnemonic == "pop"
    fma, arithmetic = _FMA.match(mnemonic), _ARITHMETIC.match(mnemonic)
    bits = 8 * operands[0].size if operands else 0
    return Instruction(
        address=each.address,
        text=f"{mnemonic} {call}" if call else text,
        target=operands[0].imm if jumps and not call else -1,
        call=call or ("?" if mnemonic == "call" else ""),
        fma_bits=_SCALAR_BITS.get(fma["type"], bits) if fma else 0,
        arithmetic_bits=_SCALAR_BITS.get(arithmetic["type"] or "", bits) if arithmetic else 0,
        loads=loads,
        stores=stores,
        stack=stack,
    )
