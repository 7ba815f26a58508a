"""What a call costs apart from the work: `python tests/bench/call_overhead.py [--json]`.

An identity-like function (`x + 1` on 16 elements) is called from numpy and from PyTorch, beside
the same operation in numpy and in PyTorch themselves. Times are in microseconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

import mlcflow

CALLS, BATCH = 2000, 20


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Median and least time of one call, over batches that hide the clock's own cost."""
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter_ns()
        for _ in range(BATCH):
            call()
        times.append((time.perf_counter_ns() - begin) / BATCH / 1e3)
    return {"median_us": statistics.median(times), "min_us": min(times)}


def main() -> None:
    """Measure, and print a table or one JSON object."""
    tensor = torch.ones(4, 4)
    array = tensor.numpy()
    executable = mlcflow.compile(lambda x: x + 1, tensor, pipeline="cpu")
    results = {
        "mlcflow, numpy in and out": measure(lambda: executable(array)),
        "mlcflow, torch in and out": measure(lambda: executable(tensor)),
        "numpy, array + 1": measure(lambda: np.add(array, 1)),
        "torch, tensor + 1": measure(lambda: torch.add(tensor, 1)),
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps(results, indent=2))
        return
    print(f"{'a call':28} {'median':>10} {'least':>10}")
    for name, times in results.items():
        print(f"{name:28} {times['median_us']:7.2f} µs {times['min_us']:7.2f} µs")


if __name__ == "__main__":
    main()
