"""Run torch-mlir's end-to-end test modules through a pipeline and report what happens.

    python tests/coverage/torch_mlir_suite.py CHECKOUT [--pipeline reference] [--filter REGEX]
        [--jobs 2] [--limit SECONDS] [--json FILE]

``CHECKOUT`` is a checkout of https://github.com/llvm/torch-mlir, of the version of the wheel.
Each module is compiled for the inputs of its test and compared with PyTorch: values, element
types, structure of the results, and what it does to its inputs. Modules run in processes of
their own, so that a crash or a hang is a result like any other. Exits with 1 when a module
that torch-mlir's own reference backend runs does not pass.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import torch_mlir_worker

CLASSES = {
    "passed": "same values and types as PyTorch",
    "wrong": "a result differs from PyTorch's",
    "import": "ImportModelError: torch-mlir, or mlcflow, refuses the model",
    "lowering": "LoweringError",
    "execution": "ExecutionError",
    "error": "another exception",
    "crash": "the process ended",
    "timeout": "took longer than the limit",
    "eager": "PyTorch itself does not run it here",
}
WORKER = Path(torch_mlir_worker.__file__)
RECYCLE = 150  # modules for one worker: the JIT's code and dynamo's caches only grow


@dataclass(frozen=True)
class Outcome:
    """What happened to one module.

    ``kind``: a key of ``CLASSES``. ``expected``: torch-mlir expects its reference backend to
    fail or crash on the module. ``random``: PyTorch's own results differ from call to call,
    so that only shapes and element types are compared.
    """

    name: str
    kind: str
    detail: str = ""
    seconds: float = 0.0
    expected: bool = False
    random: bool = False


class Worker:
    """A process that runs one module at a time; started when first needed."""

    def __init__(self, checkout: Path, pipeline: str, limit: float) -> None:
        self._command = [sys.executable, str(WORKER), str(checkout), pipeline]
        self._limit, self._process, self._count = limit, None, 0

    def run(self, name: str) -> Outcome:
        """The outcome for the module ``name``."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._process.stdout.readline()  # ready: loading is not part of the time
            self._count = 0
        begin = time.monotonic()
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self._limit)
        if not ready:
            self.stop()
            return Outcome(name, "timeout", f"{self._limit:.0f} s", self._limit)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.stop()
            return Outcome(name, "crash", f"exit status {code}", time.monotonic() - begin)
        self._count += 1
        if self._count == RECYCLE:
            self.stop()
        return Outcome(name, seconds=round(time.monotonic() - begin, 2), **json.loads(line))

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def run_suite(
    checkout: Path, names: list[str], pipeline: str, jobs: int, limit: float
) -> list[Outcome]:
    """The outcomes of the modules, sorted by name; progress goes to standard error."""
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in names:
        waiting.put(name)
    outcomes: list[Outcome] = []

    def work(_: int) -> None:
        worker = Worker(checkout, pipeline, limit)
        try:
            while True:
                outcome = worker.run(waiting.get_nowait())
                outcomes.append(outcome)
                line = f"{len(outcomes):5d} {outcome.kind:10s} {outcome.name}"
                print(line, _first_line(outcome.detail), file=sys.stderr, flush=True)
        except Empty:
            return
        finally:
            worker.stop()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))
    return sorted(outcomes, key=lambda outcome: outcome.name)


def report(outcomes: list[Outcome]) -> str:
    """The table of classes, then the names and first lines of what did not pass."""
    lines = [f"{'':12s}{'torch-mlir runs it':>20s}{'expected to fail':>18s}{'random':>8s}"]
    for kind, meaning in CLASSES.items():
        these = [o for o in outcomes if o.kind == kind]
        counts = (
            sum(not o.expected for o in these),
            sum(o.expected for o in these),
            sum(o.random for o in these),
        )
        lines.append(f"{kind:12s}{counts[0]:20d}{counts[1]:18d}{counts[2]:8d}   {meaning}")
    for kind in CLASSES:
        for expected in (False, True):
            these = [o for o in outcomes if o.kind == kind and o.expected == expected]
            if these and kind != "passed":
                also = ", torch-mlir expects a failure" if expected else ""
                lines.append(f"\n{kind}{also}: {len(these)}")
                lines += [f"  {o.name}: {_first_line(o.detail)}" for o in these]
    return "\n".join(lines)


def _first_line(detail: str) -> str:
    """The line of an error that tells it from others."""
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    told = [line for line in lines if not line.endswith(("to linalg:", "the original:"))]
    return (told or lines or [""])[0][:160]


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--pipeline", default="reference")
    parser.add_argument("--filter", default=".", help="regular expression on the names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one module")
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    options = parser.parse_args()
    tests = torch_mlir_worker.load_tests(options.checkout)
    expected = torch_mlir_worker.expected_failures(options.checkout)
    names = [name for name in tests if re.search(options.filter, name)]
    found = run_suite(options.checkout, names, options.pipeline, options.jobs, options.limit)
    outcomes = [Outcome(**{**asdict(o), "expected": o.name in expected}) for o in found]
    print(report(outcomes))
    if options.json:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    return int(any(not o.expected and o.kind not in ("passed", "eager") for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
