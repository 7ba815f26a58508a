"""Compile random models in every way that must agree: ``python tests/fuzz/fuzz.py --seconds=600``.

Each seed gives one model and one random variation of the pipeline. Seeds run in a process of
their own, so that one that ends the process, or hangs, is a finding like any other. A failing
model is made smaller and printed as a file that ``mlcflow run`` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from random_operations import MAKERS
from random_pipelines import variants
from random_programs import Choose, Program, draw
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlcflow.check.verify import check_executable
from mlcflow.compiler import import_model, load
from mlcflow.errors import ImportModelError, MlcflowError
from mlcflow.runtime.executable import Executable

WORKER = (__file__, "--worker")
HANGS = 300
"""Seconds after which a model counts as one that hangs."""


def check(program: Program, choose: Choose) -> str:
    """What is wrong with some way to compile ``program``; empty if nothing is.

    Results are compared with PyTorch within the bounds of rounding, and those of several
    threads with those of one, bit by bit.
    """
    inputs, model = program.tensors(), program.model()
    try:
        imported = import_model(model, inputs)
    except ImportModelError as error:
        return f"unsupported: {error}"
    for name, pipeline in variants(choose):
        try:
            exe = load(replace(imported, source=imported.original), pipeline)
            with sdpa_kernel(SDPBackend.MATH):  # the others take some NaN for 0
                check_executable(exe, model, inputs, {})
            if exe.threads > 1 and not _same_in_one_thread(exe, inputs):
                return f"{name}: threads: one gives other numbers than {exe.threads}"
        except MlcflowError as error:
            return f"{name}: {type(error).__name__}: {error}"
    return ""


def _same_in_one_thread(exe: Executable, inputs: tuple[torch.Tensor, ...]) -> bool:
    many = exe(*inputs)
    exe.threads = 1
    pairs = zip(many, exe(*inputs), strict=True)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def drawn(seed: int, source: str) -> Program:
    """The model of a seed: one of ours, or of NNSmith, whose models cannot be made smaller."""
    if source == "nnsmith":
        from nnsmith_programs import draw as draw_by_nnsmith

        return draw_by_nnsmith(seed)
    return draw(random.Random(seed).randrange, MAKERS)


def one(seed: int, source: str) -> dict[str, str]:
    """The finding of a seed, as data: ``kind`` is ``right``, ``unsupported`` or ``wrong``."""
    program = drawn(seed, source)
    problem = _caught(program, seed)
    if not problem:
        return {"kind": "right", "program": str(program)}
    if problem.startswith("unsupported"):
        return {"kind": "unsupported", "problem": problem, "program": str(program)}
    program, problem = _reduce(program, problem, seed)
    return {"kind": "wrong", "problem": problem, "program": str(program)}


def _caught(program: Program, seed: int) -> str:
    """:func:`check`, where an error of ours that is no ``MlcflowError`` is a finding too."""
    try:
        return check(program, random.Random(seed + 1).randrange)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _reduce(program: Program, problem: str, seed: int) -> tuple[Program, str]:
    """A smaller program that is wrong in the same way: of those with one thing less, the first."""
    kind = problem.split(":")[1:2]
    changed = True
    while changed:
        changed = False
        for smaller in program.smaller() if isinstance(program, Program) else ():
            try:
                smaller.model()(*smaller.tensors())
            except Exception:
                continue
            found = _caught(smaller, seed)
            if found and not found.startswith("unsupported") and found.split(":")[1:2] == kind:
                program, problem, changed = smaller, found, True
                break
    return program, problem


@dataclass(frozen=True)
class Finding:
    """What became of a seed."""

    seed: int
    kind: str
    problem: str
    program: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.kind}: {self.problem}\n{self.program}"


def hunt(
    seeds: Iterable[int], source: str = "random", until: float = float("inf")
) -> Iterator[Finding]:
    """The findings of seeds, in a process that is started again when one ends it."""
    worker: subprocess.Popen | None = None
    for seed in seeds:
        if time.monotonic() > until:
            break
        if worker is None:
            command = [sys.executable, *WORKER, f"--source={source}"]
            worker = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        line = _ask(worker, seed)
        if line:
            found = json.loads(line)
            yield Finding(seed, found["kind"], found.get("problem", ""), found["program"])
            continue
        worker.kill()
        ended = f"no answer, or none in {HANGS} s; the process ended with {worker.wait()}"
        yield Finding(seed, "crash", ended, str(drawn(seed, source)))
        worker = None
    if worker is not None:
        worker.kill()
        worker.wait()


def _ask(worker: subprocess.Popen, seed: int) -> str:
    try:
        worker.stdin.write(f"{seed}\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return ""
    ready, _, _ = select.select([worker.stdout], [], [], HANGS)
    return worker.stdout.readline() if ready else ""


def _work(source: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(one(int(line), source)), file=answers, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--models", type=int, default=10**9, help="at most so many")
    parser.add_argument("--source", choices=["random", "nnsmith"], default="random")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        _work(given.source)
        return 0
    print(f"first seed: {given.seed}", flush=True)
    seen: Counter[str] = Counter()
    seeds = iter(range(given.seed, given.seed + given.models))
    for finding in hunt(seeds, given.source, time.monotonic() + given.seconds):
        seen[finding.kind] += 1
        if finding.kind in ("wrong", "crash"):
            print(f"\n{finding}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in seen.items()))
    return 1 if seen["wrong"] + seen["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
