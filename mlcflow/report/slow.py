"""Why a kernel is slow, in words, and which knob changes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlcflow.errors import MlcflowError
from mlcflow.mlir import ir, walk
from mlcflow.report.assembly import HotLoop, functions, hot_loop
from mlcflow.target import Target

if TYPE_CHECKING:
    from mlcflow.report.profile import Ceiling, KernelProfile
    from mlcflow.runtime.executable import Executable

FAST = 0.75
"""Part of the roofline from which on a kernel is not called slow."""
SMALL = 5e-6
"""Seconds of a call below which starting and ending it counts."""
LOADS = 1.2
"""Loads that a processor does beside each multiply-add without waiting for them."""
WORTH_THREADS = 20e-6

Reason = tuple[str, str]
"""What is the matter, and what changes it."""


@dataclass(frozen=True)
class Facts:
    """What the instructions of a kernel tell.

    ``loop``: where it spends its time, ``calls``: the library functions that it calls
    anywhere, ``parallel``: whether threads share its work.
    """

    loop: HotLoop
    calls: tuple[str, ...]
    parallel: bool
    vector_bits: int

    @property
    def widest(self) -> int:
        """Bits of the widest arithmetic of the loop; 0 if it computes nothing."""
        return max(self.loop.arithmetic, default=0)

    @property
    def gathers(self) -> int:
        """Instructions that pick elements from different places."""
        names = [each.text.split(" ")[0] for each in self.loop.instructions]
        return sum(
            name.startswith(("vgather", "vpgather", "vinsertps", "vpinsr")) for name in names
        )


def read_facts(executable: Executable) -> dict[str, Facts]:
    """The facts about each function; none where there are no instructions to be read."""
    try:
        found = functions(executable)
    except MlcflowError:
        return {}
    bits = Target.host().vector_bits
    parallel = _parallel(executable)
    return {
        name: Facts(
            loop=hot_loop(function),
            calls=tuple(call for call in function.calls if _is_mathematics(call)),
            parallel=name in parallel,
            vector_bits=bits,
        )
        for name, function in found.items()
    }


def _parallel(executable: Executable) -> set[str]:
    """The functions with a part that threads share."""
    return {
        ir.StringAttr(function.attributes["sym_name"]).value
        for function in executable.stages.records[-1].module.body.operations
        if any(op.operation.name == "omp.parallel" for op in walk(function))
    }


def _is_mathematics(call: str) -> bool:
    """Whether a call may be one of a function of a number; not memory, and not threads."""
    return call != "?" and not call.startswith(("mem", "malloc", "free", "aligned", "__kmpc"))


def why_slow(
    row: KernelProfile, facts: Facts | None, ceiling: Ceiling, threads: int
) -> list[Reason]:
    """The reasons, the heaviest first; none for a kernel that is fast enough."""
    memory_bound = _is_memory_bound(row, ceiling)
    if row.of_roofline is not None and row.of_roofline >= FAST:
        if not memory_bound:
            return []
        rate = ceiling.gigabytes(row.bytes)
        words = f"memory bound: {row.gigabytes:.0f} of {rate:.0f} GB/s"
        return [(words, "fewer bytes: fuse it with the kernels around it")]
    reasons: list[Reason] = []
    each = row.seconds / max(1, row.calls)
    if row.rule == "loops":
        knob = "a rule that takes it, in pipelines/schedules/"
        reasons.append(("no schedule rule applies, so it runs as plain loops", knob))
    elif facts is not None:
        reasons += _of_instructions(facts)
        fmas = sum(facts.loop.fmas.values())
        if fmas and facts.loop.loads > LOADS * fmas and not memory_bound:
            words = f"{facts.loop.loads} loads for {fmas} multiply-adds in its loop"
            reasons.append((words, "a larger register tile"))
        if threads > 1 and not facts.parallel and each > WORTH_THREADS:
            words = f"runs on one thread of {threads}"
            reasons.append((words, "mark a loop of its schedule with parallel"))
    if each < SMALL:
        words = f"small: a call takes {each * 1e6:.1f} µs"
        reasons.append((words, "fuse it with the kernels around it, or a larger batch"))
    if not reasons and row.of_roofline is not None:
        which = "memory" if memory_bound else "arithmetic"
        words = f"{row.of_roofline:.0%} of what {which} allows; its loop shows no reason"
        reasons.append((words, "other tiles; exe.assembly(kernel) shows the loop"))
    return reasons


def _is_memory_bound(row: KernelProfile, ceiling: Ceiling) -> bool:
    return bool(row.bytes) and row.bytes / ceiling.gigabytes(row.bytes) > row.flops / ceiling.fma


def _of_instructions(facts: Facts) -> list[Reason]:
    if facts.calls:  # and all else comes from taking vectors apart for them
        named = ", ".join(f"{name} at {n} places" for name, n in Counter(facts.calls).items())
        return [(f"calls {named}, an element at a time", "a vector form of the function")]
    loop, reasons = facts.loop, []
    if 0 < facts.widest <= 64 < facts.vector_bits:
        reasons.append(("computes one element at a time", "vectorize, along a contiguous loop"))
    elif 0 < facts.widest < facts.vector_bits:
        words = f"uses {facts.widest} of the {facts.vector_bits} bits of a vector"
        reasons.append((words, "a tile of a whole vector along the innermost loop"))
    if loop.spills:
        words = f"spills: {loop.spills} of the accesses in its loop are to the stack"
        reasons.append((words, "a smaller register tile"))
    if facts.gathers:
        words = f"gathers: {facts.gathers} instructions of its loop pick single elements"
        reasons.append((words, "another order of loops, or pack the operand"))
    return reasons
