"""A program with inputs and the results that it should have, and running it at any stage."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow import mlir
from mlcflow.check.agreement import Worst, worst_element
from mlcflow.check.apart import Outcome, Tell, run_apart
from mlcflow.check.inputs import KINDS, make_arrays, uneven
from mlcflow.check.isolate import Limits
from mlcflow.check.widen import wide_array, widen
from mlcflow.errors import ExecutionError, LoweringError
from mlcflow.frontends import Imported
from mlcflow.graph.interface import entry_points, names_of, normalize_interface
from mlcflow.mlir import ir
from mlcflow.runtime import dtypes
from mlcflow.runtime.executable import Executable
from mlcflow.runtime.interface import DYNAMIC, Port

Arrays = list[np.ndarray]
DEFAULT = Limits(seconds=600.0)
"""What each run of a program may take."""


@dataclass(frozen=True)
class Program:
    """A module on tensors as ``text``, and what to run it on.

    ``start`` is the stage at which a pipeline takes it up (``None``: the first). ``sets`` are
    inputs, a list for each kind; ``exact`` and ``reference`` the results in float64 and of the
    reference lowering, which took ``seconds``. ``results`` names them.
    """

    text: str
    start: str | None
    parameters: Mapping[str, Any]
    kinds: tuple[str, ...]
    sets: tuple[Arrays, ...]
    exact: tuple[Arrays, ...]
    reference: tuple[Arrays, ...]
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
    opt_level: int = 1,
) -> Program:
    """Choose inputs and compute what the module should give for them, in a process apart.

    Parameters that nobody gives are made up. Raises ``LoweringError`` when the reference
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
    kept, exact, trusted = _expected(text, held, [given for _, given in chosen], limits, opt_level)
    return Program(
        text,
        start,
        held,
        tuple(chosen[n][0] for n in kept),
        tuple(chosen[n][1] for n in kept),
        tuple(exact),
        tuple(trusted),
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


def _expected(
    text: str, parameters: Mapping[str, Any], sets: list[Arrays], limits: Limits, opt_level: int
) -> tuple[list[int], list[Arrays], list[Arrays]]:
    """The sets that the model accepts, by number; their results in float64; as lowered."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.npz"

        def compute(tell: Tell) -> list[int]:
            wide = mlir.parse(text)
            widen(wide)
            big = {name: wide_array(value) for name, value in parameters.items()}
            exact = load_reference(wide, big, opt_level)
            narrow = load_reference(mlir.parse(text), parameters, opt_level)
            kept: list[int] = []
            arrays: dict[str, Any] = {}
            for number, given in enumerate(sets):
                tell(f"set {number}")
                try:
                    pair = call(exact, list(map(wide_array, given))), call(narrow, given)
                except ExecutionError:  # a check of the model's own, which these inputs fail
                    continue
                kept.append(number)
                for name, results in zip(("exact", "reference"), pair, strict=True):
                    for position, array in enumerate(results):
                        arrays[f"{name}.{number}.{position}"] = wide_array(array)
            np.savez(path, **arrays)
            return kept

        outcome = run_apart(compute, DEFAULT)
        if outcome.kind != "done":
            raise LoweringError(
                f"the reference lowering {outcome.kind}, there is nothing to compare with: "
                f"{outcome.message}"
            )
        with np.load(path, allow_pickle=False) as stored:
            return outcome.value, *(
                [
                    [stored[f"{name}.{n}.{p}"] for p in range(_count(stored, f"{name}.{n}."))]
                    for n in outcome.value
                ]
                for name in ("exact", "reference")
            )


def _count(stored: Any, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in stored.files)


def load_reference(module: ir.Module, parameters: Mapping[str, Any], opt_level: int) -> Executable:
    """The module of any stage, by the reference lowering."""
    from mlcflow.compiler import build_pipeline, load

    pipeline = build_pipeline("reference", options={"opt_level": opt_level})
    return load(Imported(module, dict(parameters)), pipeline)


def call(executable: Executable, arrays: Arrays) -> Arrays:
    """The results, then what inputs and parameters have become that the model overwrites."""
    copies = [np.array(array) for array in arrays]
    kept = {name: np.array(executable.parameters[name]) for name in executable.mutated_parameters}
    results = executable(*copies)
    found = list(results) if isinstance(results, tuple) else [results]
    for name, before in kept.items():
        found.append(np.array(executable.parameters[name]))
        np.copyto(np.asarray(executable.parameters[name]), before)
    return found


def judge(
    program: Program, text: str, limits: Limits, *, opt_level: int = 1
) -> tuple[Outcome, list[list[Worst]]]:
    """Run ``text``, what became of the program, and compare: a list of results a kind of input."""

    def compute(tell: Tell) -> list[list[list]]:
        tell("compile")
        executable = load_reference(mlir.parse(text), program.parameters, opt_level)
        found = []
        for number, given in enumerate(program.sets):
            tell(f"set {number}")
            found.append(_compare(program, number, call(executable, given)))
        return found

    outcome = run_apart(compute, program.within(limits))
    if outcome.kind != "done":
        return outcome, []
    return outcome, [[Worst(r, tuple(p), *rest) for r, p, *rest in row] for row in outcome.value]


def _compare(program: Program, number: int, results: Arrays) -> list[list]:
    expected = zip(results, program.exact[number], program.reference[number], strict=True)
    found = [worst_element(actual, exact, trusted) for actual, exact, trusted in expected]
    return [[w.ratio, list(w.place), w.actual, w.exact, w.skipped] for w in found]
