"""The built-in examples: trained models that must do, compiled, what they do in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import mlcflow
from mlcflow.examples import EXAMPLES, chargpt, digits
from mlcflow.tools import main


def run(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["run", *words, "--json"])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_digits_are_read_as_well_as_by_pytorch(tmp_path: Path) -> None:
    report = run("digits", f"--dump-dir={tmp_path}")
    rows = {(row["model"], row["run_by"]): row for row in report["rows"]}
    assert set(rows) == {
        (model, run_by)
        for model in ("MLP", "CNN")
        for run_by in ("PyTorch", "pipeline reference", "pipeline cpu")
    }
    for model in ("MLP", "CNN"):
        correct = {row["correct"] for key, row in rows.items() if key[0] == model}
        assert len(correct) == 1
        assert min(correct) / rows[model, "PyTorch"]["digits"] > 0.95
        for pipeline in ("reference", "cpu"):
            stages = rows[model, f"pipeline {pipeline}"]["compilation"]["stages"]
            written = sorted(path.name for path in (tmp_path / f"{model}-{pipeline}").iterdir())
            assert written == [f"{n:02d}-{stage['name']}.mlir" for n, stage in enumerate(stages)]


def test_digits_say_what_they_do() -> None:
    result = CliRunner().invoke(main, ["run", "digits", "--quick", "--pipeline=reference"])
    assert result.exit_code == 0, result.output
    for text in ("simplify", "llvm", "operations", "accuracy", "time a digit", "of 360"):
        assert text in result.output
    assert "pipeline cpu" not in result.output


def test_a_wrong_prediction_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = digits.read

    def read(model: Any, images: torch.Tensor) -> tuple[list, float]:
        predictions, seconds = real(model, images)
        if isinstance(model, mlcflow.Executable):
            predictions[7] = (predictions[7] + 1) % 10
        return predictions, seconds

    monkeypatch.setattr(digits, "read", read)
    result = CliRunner().invoke(main, ["run", "digits", "--quick"])
    assert result.exit_code == 1
    assert "1 of 360 predictions differ from PyTorch's" in result.stderr


def test_chargpt_writes_the_same_text() -> None:
    report = run("chargpt", "--quick")
    assert [row["run_by"] for row in report["rows"]] == [
        "PyTorch",
        "pipeline reference",
        "pipeline cpu",
    ]
    assert len(report["text"]) == 20


@pytest.mark.slow
def test_chargpt_learns_to_write() -> None:
    report = run("chargpt", "--pipeline=cpu")
    words = chargpt.standard_library_text().split()
    written = report["text"].split()
    assert sum(word in words for word in written) > len(written) / 2


@pytest.mark.parametrize("model", [digits.MLP(width=24), digits.CNN(channels=4)])
def test_models_are_for_others_too(model: torch.nn.Module, pipeline: str) -> None:
    images = digits.load().test_images[:3]
    executable = mlcflow.compile(model.eval(), images, pipeline=pipeline)
    assert executable(images).shape == (3, 10)


def test_held_out_digits_stay_the_same() -> None:
    first, second = digits.load(), digits.load()
    assert torch.equal(first.test_images, second.test_images)
    assert first.test_images.shape == (360, 1, 8, 8)
    assert first.train_images.min() == 0 and first.train_images.max() == 1


def test_threads_are_given_back() -> None:
    threads = torch.get_num_threads()
    run("chargpt", "--quick", "--pipeline=reference")
    assert torch.get_num_threads() == threads


def test_every_example_is_listed_in_the_help() -> None:
    output = CliRunner().invoke(main, ["run", "--help"]).output
    assert all(name in output for name in EXAMPLES)
