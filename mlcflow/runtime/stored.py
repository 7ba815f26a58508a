"""A compiled program as bytes: its object file, and what the runtime must know to call it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlcflow.runtime.interface import Port
from mlcflow.runtime.libraries import find_library
from mlcflow.runtime.library import PREFIX

_LENGTH = 8


@dataclass(frozen=True)
class StoredProgram:
    """A module as LLVM compiled it.

    ``functions``: the ports of each entry function. ``messages``: of assertions. ``threads``:
    what it was compiled for; ``is_parallel``: whether it uses them. ``symbols``: the C functions
    that it calls. ``libraries``: what the library functions among them were then. ``verified``:
    whether its results were compared with the model's. ``code``: the object file.
    """

    functions: Mapping[str, list[Port]]
    messages: list[str]
    threads: int
    is_parallel: bool
    symbols: list[str]
    libraries: Mapping[str, str]
    verified: bool
    code: bytes

    @property
    def parameters(self) -> set[str]:
        """The names of the parameters that it reads."""
        ports = [port for ports in self.functions.values() for port in ports]
        return {port.name for port in ports if port.role == "parameter"}

    def to_bytes(self) -> bytes:
        """One block of bytes: the length of the JSON, the JSON, the object file."""
        known = {
            "functions": {
                name: [asdict(port) for port in ports] for name, ports in self.functions.items()
            },
            "messages": self.messages,
            "threads": self.threads,
            "is_parallel": self.is_parallel,
            "symbols": self.symbols,
            "libraries": dict(self.libraries),
            "verified": self.verified,
        }
        text = json.dumps(known, sort_keys=True).encode()
        return len(text).to_bytes(_LENGTH, "little") + text + self.code


def from_bytes(data: bytes) -> StoredProgram:
    """The program that ``to_bytes`` gave. Raises ``ValueError`` for other bytes."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        known = json.loads(data[_LENGTH:end])
        known["functions"]["main"]  # there always is one
        return StoredProgram(
            functions={n: [_port(p) for p in ports] for n, ports in known["functions"].items()},
            messages=[str(message) for message in known["messages"]],
            threads=int(known["threads"]),
            is_parallel=bool(known["is_parallel"]),
            symbols=[str(name) for name in known["symbols"]],
            libraries={str(name): str(digest) for name, digest in known["libraries"].items()},
            verified=bool(known["verified"]),
            code=data[end:],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stored program: {error!r}") from error


def _port(known: dict[str, Any]) -> Port:
    lists = {key: tuple(known[key]) for key in ("shape", "dims")}
    return Port(**(known | lists))


def libraries_of(symbols: Iterable[str]) -> dict[str, str]:
    """The library functions among the functions of a module, and a digest of what each is.

    Code that was compiled for another function of the same name does not fit.
    """
    names = {symbol.removeprefix("_mlir_ciface_") for symbol in symbols}
    found = sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
    return {name: _library_digest(name) for name in found}


def _library_digest(name: str) -> str:
    library = find_library(name)
    adapter = library.adapter() if library.adapter else ""
    facts = [library.computes, library.dtype, library.symbols, library.unit_stride, adapter]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
