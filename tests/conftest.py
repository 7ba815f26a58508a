"""What all tests share: the pipelines they run over, and the collection of lit tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# What is tested is compiling, in processes that tests start, too.
os.environ["MLCFLOW_CACHE_DIR"] = ""

# The same few examples each time, not made smaller when they fail: each compiles a model.
# `pytest --hypothesis-profile=thorough` looks for new ones.
hypothesis.settings.register_profile(
    "quick",
    max_examples=5,
    derandomize=True,
    deadline=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.register_profile("thorough", max_examples=300, deadline=None)
hypothesis.settings.load_profile("quick")

LIT = Path(__file__).parent / "lit"
LIT_SECONDS = 120
"""A lit test that takes longer hangs."""


@pytest.fixture(params=["reference", "cpu"])
def pipeline(request: pytest.FixtureRequest) -> str:
    """The name of each pipeline that produces code for this machine."""
    return str(request.param)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Every file below ``tests/lit`` with a RUN line is one test."""
    if file_path.suffix not in (".mlir", ".py") or LIT not in file_path.parents:
        return None
    if file_path.name == "lit.cfg.py" or "RUN:" not in file_path.read_text():
        return None
    return LitFile.from_parent(parent, path=file_path)


class LitFile(pytest.File):
    """A file that lit runs."""

    def collect(self) -> Iterator[LitTest]:
        yield LitTest.from_parent(self, name="lit")


class LitTest(pytest.Item):
    """The RUN lines of one file, run by the lit of this interpreter."""

    def runtest(self) -> None:
        lit = [sys.executable, "-c", "import sys; from lit.main import main; sys.exit(main())"]
        with tempfile.TemporaryDirectory() as outputs:
            code, output = _run([*lit, "-a", "-j1", f"--param=outputs={outputs}", str(self.path)])
        if code:
            raise LitFailure(output)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: str | None = None):
        if isinstance(excinfo.value, LitFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.path.relative_to(LIT.parent).as_posix()


class LitFailure(Exception):
    """What lit printed about a test that failed."""


def _run(command: list[str]) -> tuple[int, str]:
    """Exit code and output; ends the command and all that it started when it hangs."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIT_SECONDS)
    except subprocess.TimeoutExpired:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        output, _ = process.communicate()
        return 1, f"{output}\nstill running after {LIT_SECONDS} s"
    return process.returncode, output
