"""What is known at one point of a tensor function while it is read."""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlcflow.errors import unknown_name
from mlcflow.frontends.tensor_program.source import Problem
from mlcflow.frontends.tensor_program.tree import (
    Affine,
    Apply,
    Constant,
    IndexValue,
    Load,
    Loop,
    SizeValue,
    Statement,
    Symbol,
    TensorType,
    loads,
)

EXPRESSION = (Constant, IndexValue, SizeValue, Load, Apply)


@dataclass(frozen=True)
class TensorName:
    """An argument or a buffer, by name."""

    name: str


@dataclass(frozen=True)
class Stale:
    """A value that was read from ``tensor`` before the tensor was written again."""

    tensor: str


@dataclass(frozen=True)
class Invalid:
    """Stands for what could not be understood; the problem is reported already."""


INVALID = Invalid()

Value = Any
"""A number, ``Symbol``, ``Affine``, ``Expression``, ``TensorName``, ``Stale``, a tuple of them,
an object of the language (a function, a module, a type), or ``INVALID``."""


@dataclass
class Scope:
    """The names of a function so far, the loops around the current point, and what was found.

    ``environment`` holds what the function sees from outside; ``names`` what it binds.
    """

    environment: Mapping[str, Any]
    arguments: dict[str, TensorType] = field(default_factory=dict)
    buffers: dict[str, TensorType] = field(default_factory=dict)
    names: dict[str, Value] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    results: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    in_init: bool = False
    loop_count: int = 0

    def report(self, node: ast.AST, message: str) -> Invalid:
        """Note a problem at ``node``."""
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
        self.problems.append(Problem(line, column, message))
        return INVALID

    def type_of(self, tensor: str) -> TensorType:
        """The type of an argument or buffer."""
        return self.arguments[tensor] if tensor in self.arguments else self.buffers[tensor]

    def look_up(self, node: ast.Name) -> Value:
        """What a name stands for."""
        if node.id in self.names:
            value = self.names[node.id]
            if isinstance(value, Stale):
                return self.report(
                    node,
                    f"'{node.id}' was read from '{value.tensor}', which has been written since: "
                    "read it again, or write to another buffer",
                )
            return value
        if node.id in self.environment:
            return self._outer(node, self.environment[node.id])
        if hasattr(builtins, node.id):
            return getattr(builtins, node.id)
        return self.report(node, unknown_name("name", node.id, self.names))

    def _outer(self, node: ast.Name, value: Any) -> Value:
        """A value from outside the function: a number, a type, or something of the language."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, tuple | list):
            return tuple(self._outer(node, item) for item in value)
        if isinstance(value, bool | int | float | str | Symbol | TensorType | np.dtype):
            return value
        if isinstance(value, types.ModuleType) or callable(value):
            return value
        return self.report(
            node,
            f"'{node.id}' is a {type(value).__name__} from outside the function; expected a "
            "number, a tuple of numbers, or a module (arrays are passed as arguments)",
        )

    def forget(self, tensor: str) -> None:
        """Values that were read from ``tensor`` are no longer what it holds."""
        for name, value in self.names.items():
            if isinstance(value, EXPRESSION) and any(x.tensor == tensor for x in loads(value)):
                self.names[name] = Stale(tensor)

    @contextmanager
    def within(self, loops: list[Loop]) -> Iterator[None]:
        """The body of ``loops``: what it binds ends with it."""
        before = dict(self.names)
        self.loops += loops
        for loop in loops:
            self.names[loop.name] = Affine(((loop.name, 1),))
        yield
        del self.loops[len(self.loops) - len(loops) :]
        # Values from before the loop may have become stale within it.
        stale = {n: v for n, v in self.names.items() if isinstance(v, Stale) and n in before}
        self.names = before | stale
