"""A process of its own for dangerous work: what it gives, and every way in which it can end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcflow import mlir
from mlcflow.check.isolate import Limits, WorkerDied, is_supported, isolated
from mlcflow.errors import LoweringError, MlcflowError, VerificationError
from mlcflow.passes import Pass

pytestmark = pytest.mark.skipif(not is_supported(), reason="needs Linux")


def test_an_answer_and_notes() -> None:
    heard: list[dict[str, Any]] = []

    def work(say: Any) -> bytes:
        for number in range(3):
            say({"number": number})
        return b"\0" * (1 << 22) + str(os.getppid()).encode()

    answer = isolated(work, hear=heard.append)
    assert answer == b"\0" * (1 << 22) + str(os.getpid()).encode()
    assert heard == [{"number": 0}, {"number": 1}, {"number": 2}]


def test_the_worker_has_what_the_caller_has_and_changes_nothing() -> None:
    array = torch.zeros(1 << 20)

    def work(say: Any) -> bytes:
        array.add_(1)
        return str(array.sum().item()).encode()

    assert isolated(work) == b"1048576.0" and array.sum() == 0


def fault(say: Any) -> bytes:
    say({"at": "the fault"})
    return ctypes.string_at(0)


def hang(say: Any) -> bytes:
    say({"at": "the hang"})
    while True:
        time.sleep(10)


def fill(say: Any) -> bytes:
    kept = []
    while True:
        kept.append(b"x" * (1 << 24))


def fail(say: Any) -> bytes:
    os.write(2, b"noise\nAssertion `it' failed.\n 0. Stack dump:\n")
    os.abort()


def leave(say: Any) -> bytes:
    os._exit(3)


@pytest.mark.parametrize(
    ("work", "limits", "how", "last"),
    [
        (fault, Limits(), "was ended by SIGSEGV", {"at": "the fault"}),
        (hang, Limits(seconds=0.2), "was not done within 0.2 s", {"at": "the hang"}),
        (fill, Limits(memory=1 << 28), "needed more than 0.25 GiB of memory", {}),
        (fail, Limits(), "was ended by SIGABRT", {}),
        (leave, Limits(), "ended with exit code 3", {}),
        (lambda say: os.kill(os.getpid(), signal.SIGKILL), Limits(), "no memory left", {}),
    ],
)
def test_every_death_is_an_exception(work: Any, limits: Limits, how: str, last: dict) -> None:
    with pytest.raises(WorkerDied) as info:
        isolated(work, limits)
    assert how in info.value.how and info.value.last == last
    if work is fail:
        assert info.value.telling == ("Assertion `it' failed.",)
        assert info.value.output.startswith("noise")


def test_an_allocation_that_fails_in_native_code() -> None:
    """C++ throws, nobody catches: the process aborts, and says why; or it meets a null pointer."""

    def work(say: Any) -> bytes:
        kept = [mlir.context()]
        module = mlir.parse("func.func @f() { return }", kept[0])
        while True:
            kept.append(mlir.clone(module))

    with pytest.raises(WorkerDied, match="needed more than|limit of .* GiB"):
        isolated(work, Limits(memory=1 << 26, seconds=60))


def test_exceptions_come_back_as_they_were() -> None:
    error = LoweringError("no", stage="s", step="t", diagnostics=("a", "b"), reproducer="r")

    def work(say: Any) -> bytes:
        raise error

    with pytest.raises(LoweringError) as info:
        isolated(work)
    assert str(info.value) == str(error) and vars(info.value) == vars(error)
    assert "test_isolate.py" in str(info.value.__cause__)
    for kind in (VerificationError, ValueError, KeyboardInterrupt):

        def raising(say: Any, kind: type = kind) -> bytes:
            raise kind("reason")

        with pytest.raises(MlcflowError if kind is KeyboardInterrupt else kind, match="reason"):
            isolated(raising)


def test_standard_error_comes_along(capfd: pytest.CaptureFixture) -> None:
    isolated(lambda say: os.write(2, b"a warning\n") and b"")
    assert capfd.readouterr().err == "a warning\n"


def test_nothing_is_left(tmp_path: Path) -> None:
    """No process, not even one that the worker started; no open file."""
    before = sorted(map(str, Path("/proc/self/fd").iterdir()))

    def work(say: Any) -> bytes:
        if os.fork() == 0:
            time.sleep(60)
        (tmp_path / "pid").write_text(str(os.getpid()))
        return b""

    isolated(work)
    with pytest.raises(ChildProcessError):
        os.waitpid(int((tmp_path / "pid").read_text()), 0)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # what was killed goes when its new parent looks
            os.killpg(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.05)
    assert sorted(map(str, Path("/proc/self/fd").iterdir())) == before


def test_after_threads_of_all_kinds_have_run() -> None:
    """Threads of PyTorch and of MLIR are not in the copy, and it does without."""
    torch.randn(500, 500) @ torch.randn(500, 500)
    ctx = mlir.context()
    functions = "\n".join(f"func.func @f{n}() {{ return }}" for n in range(50))
    with ctx:
        Pass("canonicalize", on="func.func")(mlir.parse(functions, ctx))

    def work(say: Any) -> bytes:
        module = mlir.parse(functions)
        Pass("canonicalize", on="func.func")(module)
        torch.randn(500, 500) @ torch.randn(500, 500)
        return mlir.asm(module).encode()

    assert isolated(work, Limits(seconds=60)).count(b"func.func") == 50


def test_several_at_the_same_time() -> None:
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        def work(say: Any) -> bytes:
            time.sleep(0.05 * (number % 2))
            return bytes([number])

        answers[number] = isolated(work, Limits(seconds=60))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: bytes([number]) for number in range(8)}


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory": -1}])
def test_limits_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(MlcflowError, match="expected more than 0"):
        Limits(**wrong)


def test_who_interrupts_the_caller_ends_the_worker() -> None:
    """As Ctrl-C does, which only the caller sees."""
    started: list[int] = []

    def work(say: Any) -> bytes:
        say({"pid": os.getpid()})
        time.sleep(60)
        return b""

    def interrupt(note: dict[str, Any]) -> None:
        started.append(note["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolated(work, hear=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
