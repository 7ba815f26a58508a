"""Handwritten digits: an MLP and a CNN, trained, compiled, and compared on held-out digits.

The data is real and comes with scikit-learn: 1,797 digits of 8 x 8 pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from mlcflow.errors import VerificationError
from mlcflow.examples.threads import one_thread
from mlcflow.pipeline import Pipeline
from mlcflow.report.progress import compile_and_tell, working
from mlcflow.report.table import table
from mlcflow.report.timing import duration

SEED = 0


class MLP(nn.Module):
    """Three linear layers: ``float32[N, 1, 8, 8]`` to ``float32[N, 10]``."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(images)
        return result


class CNN(nn.Module):
    """Two convolutions with batch normalization: ``float32[N, 1, 8, 8]`` to ``float32[N, 10]``."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(2 * channels * 2 * 2, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.features(images).flatten(1))
        return result


@dataclass(frozen=True)
class Digits:
    """Images, ``float32[N, 1, 8, 8]`` from 0 to 1, and their labels, ``int64[N]``."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load() -> Digits:
    """The digits; a fifth of each kind is held out, always the same ones."""
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=SEED, stratify=data.target
    )
    return Digits(images[train], labels[train], images[test], labels[test])


def train(model: nn.Module, digits: Digits, epochs: int) -> nn.Module:
    """Train ``model`` in place; returns it ready for inference."""
    torch.manual_seed(SEED)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train_labels)).split(64):
            loss = nn.functional.cross_entropy(
                model(digits.train_images[batch]), digits.train_labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def read(model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> tuple[list, float]:
    """The digit that ``model`` sees in each image, one call each; median seconds of a call."""
    predictions, seconds = [], []
    with torch.inference_mode():
        model(images[:1])
        for image in images.split(1):
            begin = time.perf_counter()
            scores = model(image)
            seconds.append(time.perf_counter() - begin)
            predictions.append(int(scores.argmax()))
    return predictions, median(seconds)


def run(
    pipelines: list[Pipeline], say: Callable[[str], None], *, quick: bool, dump_dir: Path | None
) -> dict[str, Any]:
    """Train both models, compile them with each pipeline, and read the held-out digits."""
    digits = load()
    say(
        f"{len(digits.train_labels)} handwritten digits to learn from, "
        f"{len(digits.test_labels)} held out"
    )
    torch.manual_seed(SEED)
    rows = []
    with one_thread():
        for name, model in {"MLP": MLP(), "CNN": CNN()}.items():
            rows += _run_model(name, model, digits, pipelines, say, 2 if quick else 30, dump_dir)
    cells = [
        (
            row["model"],
            row["run_by"],
            f"{row['correct']} of {row['digits']}",
            f"{row['correct'] / row['digits']:.2%}",
            duration(row["seconds"]),
        )
        for row in rows
    ]
    header = ("model", "run by", "correct", "accuracy", "time a digit")
    say("\n" + table(header, cells))
    say("\nThe compiled models see in each held-out digit what PyTorch sees.")
    return {"rows": rows}


def _run_model(
    name: str,
    model: nn.Module,
    digits: Digits,
    pipelines: list[Pipeline],
    say: Callable[[str], None],
    epochs: int,
    dump_dir: Path | None,
) -> list[dict[str, Any]]:
    begin = time.perf_counter()
    with working(f"training the {name}"):
        train(model, digits, epochs)
    count = sum(parameter.numel() for parameter in model.parameters())
    seconds = time.perf_counter() - begin
    say(f"\n{name}: {count} parameters, {epochs} epochs of training in {duration(seconds)}")
    expected, seconds = read(model, digits.test_images)
    rows = [_row(name, "PyTorch", expected, digits, seconds)]
    for pipeline in pipelines:
        say(f"{name}, pipeline {pipeline.name}:")
        folder = dump_dir / f"{name}-{pipeline.name}" if dump_dir else None
        executable, compilation = compile_and_tell(
            model, (digits.test_images[:1],), {}, pipeline, say, dump_dir=folder, verify=True
        )
        predictions, seconds = read(executable, digits.test_images)
        if predictions != expected:
            differ = sum(a != b for a, b in zip(predictions, expected, strict=True))
            raise VerificationError(
                f"{name}, pipeline {pipeline.name}: {differ} of {len(expected)} predictions "
                "differ from PyTorch's"
            )
        row = _row(name, f"pipeline {pipeline.name}", predictions, digits, seconds)
        rows.append(row | {"compilation": compilation})
    return rows


def _row(
    name: str, run_by: str, predictions: list, digits: Digits, seconds: float
) -> dict[str, Any]:
    correct = int((torch.tensor(predictions) == digits.test_labels).sum())
    return {
        "model": name,
        "run_by": run_by,
        "correct": correct,
        "digits": len(predictions),
        "seconds": seconds,
    }
