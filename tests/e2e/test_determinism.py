"""The same model gives the same bytes: in every process, directory, order, number of threads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mlcflow
from mlcflow.check.isolate import is_supported
from mlcflow.mlir import asm
from mlcflow.runtime import object_code
from mlcflow.target import Target

# Any machine must do: the target is what decides, not the number of processors here.
TARGET = replace(Target.host(), cores=2)


class Block(nn.Module):
    """A layer of a transformer, an embedding in front."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embed(codes))


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    perceptron = nn.Sequential(nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 10), nn.Softmax(-1))
    images = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 64, 10),
    )  # fmt: skip
    return {
        "perceptron": (perceptron.eval(), torch.randn(64, 100)),
        "images": (images.eval(), torch.randn(2, 3, 16, 16)),
        "block": (Block().eval(), torch.arange(24).reshape(2, 12)),
    }


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def facts(*, isolate: bool, backwards: bool) -> dict[str, dict[str, str]]:
    """A digest of each stage, of the stored program and of the results of each model."""
    found = {}
    asked = [(name, "cpu") for name in models()] + [("perceptron", "reference")]
    for name, pipeline in reversed(asked) if backwards else asked:
        model, x = models()[name]
        cache = Path(f"{name}-{pipeline}")
        exe = mlcflow.compile(
            model, x, target=TARGET, pipeline=pipeline, verify=False, cache=cache, isolate=isolate
        )
        seen = {stage: digest(asm(module)) for stage, module in exe.stages.items()}
        if object_code.is_available():
            [entry] = cache.iterdir()
            seen["object"] = digest(entry.read_bytes())
        seen["results"] = digest(exe(x).numpy().tobytes())
        found[f"{name}, {pipeline}"] = seen
    return found


def start(folder: Path, seed: int, threads: int, **how: bool) -> subprocess.Popen:
    """A process that prints the facts; with one thread, on one processor."""
    folder.mkdir()
    environment = os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, __file__, json.dumps(how)]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def test_stages_objects_and_results_are_the_same_bytes(tmp_path: Path) -> None:
    workers = [
        start(tmp_path / "a", 1, 1, isolate=False, backwards=False),
        start(tmp_path / "other", 2, 2, isolate=is_supported(), backwards=True),
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert len(first) == 4 and first.keys() == second.keys()
    for model, seen in first.items():
        assert {"llvm", "results"} < set(seen)
        differ = [stage for stage, value in seen.items() if second[model][stage] != value]
        assert not differ, f"{model}: {', '.join(differ)}"


@pytest.mark.parametrize("name", models())
def test_results_do_not_vary(name: str) -> None:
    """From call to call, and with the number of threads, which share the work anew each time."""
    model, x = models()[name]
    exe = mlcflow.compile(model, x, target=TARGET, verify=False, cache=False)
    seen = set()
    for threads in (1, 2) * 3:
        exe.threads = threads
        seen |= {exe(x).numpy().tobytes() for _ in range(10)}
    assert len(seen) == 1
    assert name != "perceptron" or exe._code._has_parallel_loops  # else it says nothing


if __name__ == "__main__":
    if os.environ["OMP_NUM_THREADS"] == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(facts(**json.loads(sys.argv[1]))))
