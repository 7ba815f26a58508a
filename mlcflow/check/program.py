"""A program with inputs and the results that it should have, and running it at any stage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlcflow import mlir
from mlcflow.check.agreement import Worst, worst_element
from mlcflow.check.apart import Outcome, Tell, run_apart
from mlcflow.check.expected import Expected, expect, from_row, to_row
from mlcflow.check.inputs import KINDS, make_arrays, uneven
from mlcflow.check.isolate import Limits
from mlcflow.check.trusted import Arrays, call, load_reference
from mlcflow.graph.interface import entry_points, names_of, normalize_interface
from mlcflow.mlir import ir
from mlcflow.runtime import dtypes
from mlcflow.runtime.interface import DYNAMIC, Port

DEFAULT = Limits(seconds=1800.0)
"""What each run of a program may take."""


@dataclass(frozen=True)
class Program:
    """A module on tensors as ``text``, and what to run it on.

    ``start`` is the stage at which a pipeline takes it up (``None``: the first). ``sets`` are
    inputs, a list for each kind, ``expected`` what it gives, which took ``seconds`` to compute.
    ``results`` names them.
    """

    text: str
    start: str | None
    parameters: Mapping[str, Any]
    kinds: tuple[str, ...]
    sets: tuple[Arrays, ...]
    expected: Expected
    results: tuple[str, ...]
    seconds: float = 0.0

    def within(self, limits: Limits) -> Limits:
        """The limits of a run: at least ten times as long as the trusted runs took."""
        return replace(limits, seconds=max(limits.seconds, 10 * self.seconds))


def make_program(
    text: str,
    *,
    start: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    examples: Sequence[Arrays] = (),
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    limits: Limits = DEFAULT,
    patience: float = float("inf"),
) -> Program:
    """Choose inputs and compute what the module should give for them, in a process apart.

    Parameters that nobody gives are made up. A program that takes more than ``patience``
    seconds is run on the first kinds of inputs only. Raises ``LoweringError`` when the reference
    lowering fails: then there is nothing to compare with.
    """
    module = mlir.parse(text)
    with module.context, ir.Location.unknown():
        normalize_interface(module)
    inputs, needed, names = ports_of(module)
    held = uneven(parameters or {}, seed)
    for port in needed:
        if port.name not in held:
            made = make_arrays([port], "random", seed, None)
            assert made is not None
            held[port.name] = made[0]
    chosen = [
        (kind, made)
        for kind in kinds
        if (made := make_arrays(inputs, kind, seed, examples[0] if examples else None)) is not None
    ]
    chosen += [("example", list(given)) for given in examples[1:]]
    text = mlir.asm(module, locations=True)
    begin = time.perf_counter()
    generous = replace(limits, seconds=max(limits.seconds, DEFAULT.seconds))
    found = expect(text, held, [given for _, given in chosen], generous, patience=patience)
    return Program(
        text,
        start,
        held,
        tuple(chosen[n][0] for n in found.kept),
        tuple(chosen[n][1] for n in found.kept),
        found,
        tuple(names),
        time.perf_counter() - begin,
    )


def ports_of(module: ir.Module) -> tuple[list[Port], list[Port], list[str]]:
    """The inputs and the parameters of ``@main``, and the names of its results."""
    main = next(f for f in entry_points(module) if f.name.value == "main")
    found: dict[str, list[Port]] = {"input": [], "parameter": []}
    entries = [ir.DictAttr(entry) for entry in ir.ArrayAttr(main.attributes["arg_attrs"])]
    for kind, entry in zip(main.type.inputs, entries, strict=True):
        role = "parameter" if "mlcflow.parameter" in entry else "input"
        shaped = ir.ShapedType(kind)
        dtype = dtypes.of_mlir(str(shaped.element_type))
        if "mlcflow.dtype" in entry:
            dtype = ir.StringAttr(entry["mlcflow.dtype"]).value
        shape = tuple(-1 if size == DYNAMIC else size for size in shaped.shape)
        found[role].append(Port(role, ir.StringAttr(entry[f"mlcflow.{role}"]).value, dtype, shape))
    outputs = names_of(main, "output", results=True)
    mutated = [name for name in names_of(main, "mutates", results=True) if name]
    return found["input"], found["parameter"], [n for n in outputs if n] + mutated


def judge(program: Program, text: str, limits: Limits) -> tuple[Outcome, list[list[Worst]]]:
    """Run ``text``, what became of the program, and compare: a list of results a kind of input."""

    def compute(tell: Tell) -> list[list[list]]:
        tell("compile")
        executable = load_reference(mlir.parse(text), program.parameters, 1)
        found = []
        for number, given in enumerate(program.sets):
            tell(f"set {number}")
            worst = compare_results(program, number, call(executable, given))
            found.append(list(map(to_row, worst)))
        return found

    if text == program.text:
        return Outcome("done"), program.expected.worst
    outcome = run_apart(compute, program.within(limits))
    rows = outcome.value if outcome.kind == "done" else []
    return outcome, [list(map(from_row, row)) for row in rows]


def compare_results(program: Program, number: int, results: Arrays) -> list[Worst]:
    """The worst element of each result for the inputs of that number."""
    exact, reference = program.expected.exact[number], program.expected.reference[number]
    return [worst_element(*each) for each in zip(results, exact, reference, strict=True)]
