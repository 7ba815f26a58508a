"""Verification of every stage of a pipeline: as the model runs it, and kernel by kernel."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow import mlir
from mlcflow.check.agreement import Worst
from mlcflow.check.apart import run_apart
from mlcflow.check.harness import harness_text
from mlcflow.check.isolate import Limits
from mlcflow.check.program import DEFAULT, Program, judge, make_program
from mlcflow.check.walk import name_of, walk_stages
from mlcflow.frontends import Imported
from mlcflow.pipeline import Pipeline

IMPORT = "import"
"""What the module is called before the first stage."""
PATIENCE = 2.0
"""Seconds of a trusted run of a model; one that takes longer is run on few kinds of inputs."""


@dataclass(frozen=True)
class Finding:
    """The worst element of a program at a stage: which result of which kind of inputs."""

    worst: Worst
    result: str
    kind: str


@dataclass(frozen=True)
class Row:
    """A stage: ``ok``, ``same`` (as before it), ``wrong``, ``failed``, ``crashed`` or ``hung``.

    ``model`` and ``kernels`` are the worst elements of the whole, and of the kernels called one
    by one; ``None`` if not run. ``message`` says what went wrong. ``skipped`` counts elements
    that overflow in the type of the model and not in float64.
    """

    stage: str
    status: str
    model: Finding | None = None
    kernels: Finding | None = None
    message: str = ""
    seconds: float = 0.0
    skipped: int = 0


def verify_stages(
    imported: Imported,
    pipeline: Pipeline,
    *,
    inputs: Sequence[Sequence[np.ndarray]] = (),
    seed: int = 0,
    limits: Limits = DEFAULT,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Run the module of every stage through the reference lowering, against float64.

    ``inputs``: examples for the model; others are made up. A stage whose module is that of the
    stage before is not run again. What a stage does to a kernel is seen on the kernels called
    one by one, equal ones once. ``on_row`` hears of each stage when it is done.
    """
    program = whole_model(imported, inputs=inputs, seed=seed, limits=limits)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(program, pipeline, Path(folder), limits, seed):
            rows.append(row)
            if on_row:
                on_row(row)
    return rows


def whole_model(
    imported: Imported, *, inputs: Sequence[Sequence[np.ndarray]], seed: int, limits: Limits
) -> Program:
    """The model as a program, with the inputs that it is checked on."""
    text = mlir.asm(imported.module, locations=True)
    examples = [list(given) for given in inputs]
    return make_program(
        text,
        parameters=imported.parameters,
        examples=examples,
        seed=seed,
        limits=limits,
        patience=PATIENCE,
    )


def _rows(
    program: Program, pipeline: Pipeline, folder: Path, limits: Limits, seed: int
) -> Iterator[Row]:
    yield _row(IMPORT, {"model": (program, program.text)}, limits)
    (folder / "model").mkdir()
    walk = walk_stages(pipeline, program.text, folder / "model", limits)
    pieces: dict[str, Path] = {}
    kernels: Program | None = None
    before = {"model": program.text}
    for name, path in walk.files.items():
        texts = {"model": (program, path.read_text(encoding="utf-8"))}
        if kernels is None:
            kernels = kernel_program(path, _next(pipeline, name), seed, limits)
            if kernels is not None:
                texts["kernels"] = (kernels, kernels.text)
                (folder / "kernels").mkdir()
                pieces = walk_stages(
                    pipeline, kernels.text, folder / "kernels", limits, kernels.start
                ).files
        elif name in pieces:
            texts["kernels"] = (kernels, pieces[name].read_text(encoding="utf-8"))
        yield _row(name, texts, limits, before)
        before = {which: text for which, (_, text) in texts.items()}
    if walk.outcome.kind != "done":
        step = name_of(pipeline, walk.stage, walk.step)
        message = f"step {step}: {walk.outcome.message}"
        yield Row(walk.stage, walk.outcome.kind, message=message)


def _next(pipeline: Pipeline, stage: str) -> str | None:
    names = [each.name for each in pipeline.stages]
    after = names.index(stage) + 1
    return names[after] if after < len(names) else None


def kernel_program(path: Path, start: str | None, seed: int, limits: Limits) -> Program | None:
    """The kernels of the module in a file, each called once; ``None`` if there are none.

    ``start`` is the stage that the module goes on with.
    """
    if start is None:
        return None
    text = path.read_text(encoding="utf-8")
    made = run_apart(lambda tell: harness_text(text), limits)
    if made.kind != "done" or not made.value:
        return None
    return make_program(made.value, start=start, seed=seed, limits=limits)


def _row(
    stage: str,
    texts: Mapping[str, tuple[Program, str]],
    limits: Limits,
    before: Mapping[str, str] | None = None,
) -> Row:
    begin = time.perf_counter()
    found: dict[str, Any] = {}
    skipped = 0
    for which, (program, text) in texts.items():
        if before and before.get(which) == text:
            continue
        outcome, worst = judge(program, text, limits)
        if outcome.kind != "done":
            where = f"running the {which}" + (f", {outcome.last}" if outcome.last else "")
            message = f"{where}: {outcome.message}"
            return Row(stage, outcome.kind, message=message, seconds=time.perf_counter() - begin)
        found[which] = find_worst(program, worst)
        skipped += sum(each.skipped for row in worst for each in row)
    wrong = any(not finding.worst.agrees for finding in found.values())
    status = "wrong" if wrong else "ok" if found else "same"
    return Row(stage, status, **found, seconds=time.perf_counter() - begin, skipped=skipped)


def find_worst(program: Program, worst: Sequence[Sequence[Worst]]) -> Finding:
    """The worst of all results on all kinds of inputs."""
    every = [
        Finding(each, name, kind)
        for kind, row in zip(program.kinds, worst, strict=True)
        for name, each in zip(program.results, row, strict=True)
    ]
    return max(every, key=lambda finding: finding.worst.ratio, default=Finding(Worst(0.0), "", ""))
