"""What memory a compiled model takes, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlcflow.errors import MlcflowError
from mlcflow.graph.memory import PLAN
from mlcflow.mlir import ir
from mlcflow.report.table import table
from mlcflow.runtime.interface import Port, read_interface

if TYPE_CHECKING:
    from mlcflow.runtime.executable import Executable


@dataclass(frozen=True)
class Buffer:
    """A place in the arena: ``bytes`` at ``offset``, alive from step ``first`` to ``last``.

    ``scratch``: the kernel that works in it; empty for a value that kernels hand on.
    ``in_place``: its first step writes it over a value that nobody needs afterwards.
    """

    offset: int
    bytes: int
    first: int
    last: int
    type: str
    scratch: str
    in_place: bool


@dataclass(frozen=True)
class Allocation:
    """Memory that ``function`` allocates whenever it runs, since its size or end is not known."""

    function: str
    type: str


@dataclass(frozen=True)
class Memory:
    """Bytes of an executable: ``str()`` is a table, ``to_json()`` data.

    ``weights`` are those of the model, shared with it; ``prepared`` is made of them when the
    executable loads. ``inputs`` and ``results`` belong to the caller, and count 0 where their
    size is open. Each call that runs at the same time has an ``arena``; ``lower_bound`` is what
    is alive at once in it, so no plan needs less. ``steps``: what ``@main`` does, in order.
    """

    weights: int
    prepared: int
    inputs: int
    results: int
    arena: int
    lower_bound: int
    steps: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    allocations: tuple[Allocation, ...]

    def __str__(self) -> str:
        return "\n".join([_sums(self), *_buffers(self), *_allocations(self)])

    def as_data(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(self.as_data(), indent=2)


def memory(executable: Executable) -> Memory:
    """The memory that ``executable`` takes.

    Raises ``MlcflowError`` for a pipeline that plans none, like ``reference``.
    """
    module = executable.stages.records[-1].module
    attributes = module.operation.attributes
    if PLAN not in attributes:
        raise MlcflowError(
            f"memory: pipeline '{executable.pipeline.name}' has no step 'plan_memory', which "
            "knows; expected one like 'cpu'"
        )
    plan = ir.DictAttr(attributes[PLAN])
    functions, _ = read_interface(module)
    ports = [port for ports in functions.values() for port in ports]
    return Memory(
        weights=_bytes(ports, "parameter"),
        prepared=_bytes(ports, "prepared"),
        inputs=_bytes(ports, "input"),
        results=_bytes(ports, "output"),
        arena=_number(plan, "arena"),
        lower_bound=_number(plan, "lower_bound"),
        steps=tuple(ir.StringAttr(step).value for step in ir.ArrayAttr(plan["steps"])),
        buffers=tuple(_read_buffer(ir.DictAttr(each)) for each in ir.ArrayAttr(plan["buffers"])),
        allocations=tuple(
            Allocation(_text(each, "function"), str(ir.TypeAttr(each["type"]).value))
            for each in map(ir.DictAttr, ir.ArrayAttr(plan["allocations"]))
        ),
    )


def _bytes(ports: Iterable[Port], role: str) -> int:
    """Bytes of the arrays of ``role``; of one that two functions take, once."""
    known = {port.name: port for port in ports if port.role == role and port.is_static}
    return sum(port.nbytes for port in known.values())


def _number(entries: ir.DictAttr, key: str) -> int:
    return ir.IntegerAttr(entries[key]).value


def _text(entries: ir.DictAttr, key: str) -> str:
    return ir.StringAttr(entries[key]).value if key in entries else ""


def _read_buffer(entries: ir.DictAttr) -> Buffer:
    return Buffer(
        offset=_number(entries, "offset"),
        bytes=_number(entries, "bytes"),
        first=_number(entries, "first"),
        last=_number(entries, "last"),
        type=str(ir.TypeAttr(entries["type"]).value),
        scratch=_text(entries, "scratch"),
        in_place="in_place" in entries,
    )


def _sums(memory: Memory) -> str:
    rows = [
        ("weights", memory.weights, "of the model, shared with it"),
        ("prepared", memory.prepared, "made of the weights when the model was loaded"),
        ("inputs", memory.inputs, "the caller's"),
        ("results", memory.results, "the caller's"),
        ("arena", memory.arena, f"at least {memory.lower_bound:,} are alive at once"),
    ]
    return table(("", "bytes", ""), [(name, f"{size:,}", what) for name, size, what in rows])


def _buffers(memory: Memory) -> list[str]:
    if not memory.buffers:
        return []
    rows = [
        (
            f"{buffer.offset:,}",
            f"{buffer.bytes:,}",
            _step(memory, buffer.first),
            _step(memory, buffer.last),
            buffer.type.removeprefix("memref"),
            "scratch" if buffer.scratch else "in place" if buffer.in_place else "",
        )
        for buffer in sorted(memory.buffers, key=lambda each: (each.first, each.offset))
    ]
    return ["", "in the arena:", table(("offset", "bytes", "from step", "to step", "", ""), rows)]


def _step(memory: Memory, number: int) -> str:
    name = memory.steps[number] if number < len(memory.steps) else "the end"
    return f"{number} {name}"


def _allocations(memory: Memory) -> list[str]:
    if not memory.allocations:
        return []
    rows = [(each.function, each.type.removeprefix("memref")) for each in memory.allocations]
    return ["", "allocated at each call:", table(("function", ""), rows)]
