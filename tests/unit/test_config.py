"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlcflow import MlcflowError
from mlcflow.config import Config, from_environment


def test_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLCFLOW_DEBUG", "MLCFLOW_DUMP_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == Config(debug=0, dump_dir=None)


def test_everything_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCFLOW_DEBUG", "3")
    monkeypatch.setenv("MLCFLOW_DUMP_DIR", "dumps")
    assert from_environment() == Config(debug=3, dump_dir=tmp_path / "dumps")


@pytest.mark.parametrize("value", ["5", "-1", "yes", ""])
def test_what_is_not_understood(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLCFLOW_DEBUG", value)
    with pytest.raises(MlcflowError, match=f"expected 0, 1, 2, 3 or 4, got '{value}'"):
        from_environment()
