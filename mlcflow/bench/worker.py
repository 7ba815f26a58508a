"""The process of one side: ``python -m mlcflow.bench.worker SIDE``.

Reads a request a line from standard input and writes an answer a line, both JSON; arrays lie
in ``.npy`` files that the request names. Whatever a library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlcflow.bench import memory
from mlcflow.bench.sides import REFERENCE, SIDES, Loaded
from mlcflow.tools.model_file import as_tensors, read_arrays

LINE = 300
"""Characters of a reason; some libraries print all of a program."""
WARM = 0.2
"""Part of the time of a round that calls take before any is timed."""


class Side:
    """A model loaded by the side ``name``, and its answers."""

    def __init__(self, name: str) -> None:
        self.module = importlib.import_module(SIDES[name])
        self.loaded: Loaded | None = None

    def load(self, model: str, threads: int, folder: str) -> dict[str, Any]:
        """Build the model and compile it, with ``folder`` for what the side writes."""
        from mlcflow.bench.model import build, checksum, trivial

        flat, example = build(model)
        weights = checksum(flat)
        # What a side loads for any model is its libraries: time of the first compilation, and
        # no memory of this model. The weights are.
        begin = time.perf_counter()
        self.module.load(*trivial(), threads, Path(folder))
        libraries = time.perf_counter() - begin
        memory.reset_peak()
        self.baseline = memory.resident() - sum(v.nbytes for v in flat.state_dict().values())
        begin = time.perf_counter()
        self.loaded = self.module.load(flat, example, threads, Path(folder))
        self.loaded.bind([np.array(value) for value in example])()
        seconds = libraries + time.perf_counter() - begin
        compile_peak = memory.peak()
        cached_seconds = _seconds(self.loaded.again) if self.loaded.again else None
        self.loaded = replace(self.loaded, again=None)
        del flat, example  # what the side does not need of the model is not its memory
        memory.reset_peak()
        return {
            "version": self.module.VERSION,
            "checksum": weights,
            "compile_seconds": seconds,
            "cached_seconds": cached_seconds,
            "compile_bytes": max(0, compile_peak - self.baseline),
        }

    def round(self, inputs: list[str], seconds: float, folder: str) -> dict[str, Any]:
        """Time calls on these inputs for ``seconds``, and write the results of one more.

        Before that one, the results of the call before are overwritten, so that a side which
        writes nothing gives nothing right.
        """
        assert self.loaded is not None
        arrays = read_arrays(tuple(inputs))  # alive until the calls are over
        call = self.loaded.bind(arrays)
        _repeat(call, seconds * WARM)
        cpu, wall = time.process_time(), time.perf_counter()
        times, results = _repeat(call, seconds)
        cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
        for array in self.loaded.arrays(results):
            _poison(array)
        del results
        files = _write(folder, self.loaded.arrays(call()))
        run_bytes = max(0, memory.peak() - self.baseline)
        return {"times": times, "cores": cores, "results": files, "run_bytes": run_bytes}


class Judge:
    """The model in float64."""

    def load(self, model: str, threads: int, folder: str) -> dict[str, Any]:
        """Build the model; what its inputs are made of, and what a call takes."""
        import torch

        from mlcflow.bench.model import build, checksum, specs
        from mlcflow.bench.reference import Reference

        torch.set_num_threads(threads)
        flat, example = build(model)
        weights = checksum(flat)
        self.reference = Reference(flat, example)
        return {
            "version": torch.__version__,
            "checksum": weights,
            "inputs": specs(example),
            "work": asdict(self.reference.work),
        }

    def expect(self, inputs: list[str], folder: str) -> dict[str, Any]:
        """Write what is right for these inputs."""
        arrays = self.reference(as_tensors(read_arrays(tuple(inputs))))
        return {"results": _write(folder, arrays)}


def _repeat(call: Callable[[], Any], seconds: float) -> tuple[list[float], Any]:
    """Call at least once; the seconds of each call, and what the last gave."""
    times: list[float] = []
    results: Any = None
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        results = None  # the memory of the results may be used again, as in a loop of a user
        results = call()
        times.append(time.perf_counter() - begin)
    return times, results


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _poison(array: np.ndarray) -> None:
    if array.flags.writeable:
        array.fill(np.nan if array.dtype.kind in "fc" else 1)


def _write(folder: str, arrays: list[np.ndarray]) -> list[str]:
    files = []
    for number, array in enumerate(arrays):
        path = Path(folder) / f"{number}.npy"
        np.save(path, array, allow_pickle=False)
        files.append(str(path))
    return files


def main(name: str) -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print there
    side: Side | Judge | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            side = side or (Judge() if name == REFERENCE else Side(name))
            answer = getattr(side, request.pop("do"))(**request)
        except Exception as error:  # whatever a side raises is what the report says of it
            traceback.print_exc()
            answer = {"error": _short(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _short(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed: no module '{error.name}'; pip install 'mlcflow[bench]'"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:LINE]


if __name__ == "__main__":
    main(sys.argv[1])
