"""Letting the sides run in turn: the same model, inputs and threads, each in its process."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow.bench.process import Worker, WorkerError
from mlcflow.bench.result import Result, SideResult
from mlcflow.bench.sides import OURS, REFERENCE
from mlcflow.errors import MlcflowError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    ``rounds``: how often each side runs on fresh inputs. ``budget``: seconds of timed calls a
    side gets in all. ``limit``: seconds after which a side that has not compiled, or has not
    finished a round, is given up.
    """

    threads: int
    rounds: int = 5
    budget: float = 2.0
    limit: float = 600.0


@dataclass
class _Runner:
    """A side while it runs."""

    worker: Worker
    loaded: dict[str, Any]
    times: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    run_bytes: int = 0
    failure: str = ""


def compete(model: str, peers: Sequence[str], settings: Settings, say: Say) -> Result:
    """Measure ``model`` with mlcflow and the ``peers``; ``say`` hears what is going on.

    A peer that fails is in the result with its reason. Raises ``MlcflowError`` if the model
    cannot be built at all.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        judge = stack.enter_context(Worker(REFERENCE))
        say("float64 reference")
        try:
            facts = _load(judge, model, settings, Path(folder))
        except WorkerError as error:
            raise MlcflowError(f"{model}: {error}") from error
        sides: dict[str, _Runner] = {}
        failures: dict[str, str] = {}
        for name in (OURS, *peers):
            say(f"{name}: compile")
            worker = stack.enter_context(Worker(name))
            try:
                loaded = _load(worker, model, settings, Path(folder))
                _check_weights(model, loaded, facts)
                sides[name] = _Runner(worker, loaded)
            except WorkerError as error:
                failures[name] = f"did not compile: {error}"
        for number, inputs, expected in _rounds(judge, facts, settings, Path(folder)):
            for name, side in _in_turn(sides, number):
                say(f"round {number + 1} of {settings.rounds}: {name}")
                _run(side, inputs, expected, facts, settings, Path(folder))
    for name, side in sides.items():
        if side.failure:
            failures[name] = side.failure
    measured = {name: _result(s) for name, s in sides.items() if not s.failure}
    return Result(model, settings.threads, facts["work"], measured, failures)


def _load(worker: Worker, model: str, settings: Settings, folder: Path) -> dict[str, Any]:
    with _subfolder(folder, worker.name) as own:
        return worker.ask(
            "load", settings.limit, model=model, threads=settings.threads, folder=str(own)
        )


def _check_weights(model: str, loaded: dict[str, Any], facts: dict[str, Any]) -> None:
    if loaded["checksum"] != facts["checksum"]:
        raise MlcflowError(
            f"{model}: its weights differ from process to process; expected a file that makes "
            "the same each time: call torch.manual_seed in it"
        )


def _rounds(
    judge: Worker, facts: dict[str, Any], settings: Settings, folder: Path
) -> Iterator[tuple[int, list[str], list[np.ndarray]]]:
    """Fresh inputs for each round, as files, and what is right for them."""
    from mlcflow.bench.spec import Spec

    specs = [Spec(**{**data, "shape": tuple(data["shape"])}) for data in facts["inputs"]]
    for number in range(settings.rounds):
        generator = np.random.default_rng(number)
        with _subfolder(folder, "inputs") as place:
            files = []
            for index, spec in enumerate(specs):
                files.append(str(place / f"{index}.npy"))
                np.save(files[-1], spec.draw(generator), allow_pickle=False)
            with _subfolder(folder, "expected") as right:
                answer = judge.ask("expect", settings.limit, inputs=files, folder=str(right))
                expected = [np.load(file, allow_pickle=False) for file in answer["results"]]
            yield number, files, expected


def _in_turn(sides: dict[str, _Runner], number: int) -> list[tuple[str, _Runner]]:
    """The sides that still run, another one first in each round."""
    order = [(name, side) for name, side in sides.items() if not side.failure]
    start = number % len(order) if order else 0
    return order[start:] + order[:start]


def _run(
    side: _Runner,
    inputs: list[str],
    expected: list[np.ndarray],
    facts: dict[str, Any],
    settings: Settings,
    folder: Path,
) -> None:
    from mlcflow.bench.compare import difference
    from mlcflow.tools.model_file import read_arrays

    seconds = settings.budget / settings.rounds
    with _subfolder(folder, "results") as place:
        try:
            answer = side.worker.ask(
                "round", settings.limit, inputs=inputs, seconds=seconds, folder=str(place)
            )
        except WorkerError as error:
            side.failure = f"failed: {error}"
            return
        results = read_arrays(tuple(answer["results"]))
    off = difference(results, expected, facts["work"]["tolerance"])
    if not off <= 1:
        side.failure = f"wrong results: {off:.3g} times the error that rounding explains"
    side.errors.append(off)
    side.times += answer["times"]
    side.cores.append(answer["cores"])
    side.run_bytes = max(side.run_bytes, answer["run_bytes"])


def _result(side: _Runner) -> SideResult:
    return SideResult(
        version=side.loaded["version"],
        calls=len(side.times),
        median=statistics.median(side.times),
        least=min(side.times),
        error=max(side.errors),
        cores=statistics.median(side.cores),
        compile_seconds=side.loaded["compile_seconds"],
        cached_seconds=side.loaded["cached_seconds"],
        compile_bytes=side.loaded["compile_bytes"],
        run_bytes=side.run_bytes,
    )


@contextmanager
def _subfolder(folder: Path, name: str) -> Iterator[Path]:
    """A folder whose files go when they have been read: results may be large."""
    with tempfile.TemporaryDirectory(prefix=name, dir=folder) as place:
        yield Path(place)
