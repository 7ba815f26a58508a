"""The errors and their messages."""

from __future__ import annotations

import pytest

from mlcflow import errors
from mlcflow.errors import LoweringError, MlcflowError, unknown_name


@pytest.mark.parametrize(
    "name",
    ["ImportModelError", "LoweringError", "ScheduleError", "ExecutionError", "VerificationError"],
)
def test_one_base(name: str) -> None:
    assert issubclass(getattr(errors, name), MlcflowError)


def test_a_lowering_error_shows_what_it_knows_and_nothing_else() -> None:
    assert str(LoweringError("it failed")) == "it failed"
    error = LoweringError(
        "it failed", stage="s", step="p", op="%0 = a.b", location="m.py:3",
        diagnostics=("first", "second"), reproducer="mlcflow opt x",
    )  # fmt: skip
    assert str(error).splitlines() == [
        "it failed",
        "  operation: %0 = a.b",
        "  at: m.py:3",
        "  mlir: first",
        "  mlir: second",
        "  to see it again: mlcflow opt x",
    ]


def test_unknown_names() -> None:
    assert unknown_name("stage", "lop", ["loops", "llvm"]) == (
        "unknown stage 'lop'; did you mean 'loops'? (known: llvm, loops)"
    )
    assert "did you mean" not in unknown_name("stage", "zzz", ["loops"])
    assert unknown_name("stage", "x", [], of="p") == "unknown stage 'x' of p (known: none)"
