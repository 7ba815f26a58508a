"""Work in a process of its own, with limits on time and memory.

The process is a copy of this one, made by ``fork``: models, parameters, pipelines and whatever
else lives here is there, too, and nothing is copied before it is written. What kills it, a
failed assertion, a segmentation fault, a hang, kills nobody else.

A copy has one thread. What waits for another, such as the threads of an ``ir.Context`` of this
process, waits for ever: work starts from text or bytecode, in a context of its own.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from mlcflow.check.worker_errors import from_data, to_data
from mlcflow.errors import MlcflowError

log = logging.getLogger("mlcflow")

Say = Callable[[dict[str, Any]], None]
"""Takes a note, data for JSON, of what the worker is about to do."""

_ANSWER, _ERROR = b"a", b"e"
_TAIL = 1 << 16
_TELLING = ("Assertion", "LLVM ERROR", "UNREACHABLE", "terminate called", "what():", "stack smash")
_NO_MEMORY = ("out of memory", "bad_alloc", "Allocation failed", "Cannot allocate memory")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


@dataclass(frozen=True)
class Limits:
    """What a worker may take: ``seconds`` of time, ``memory`` bytes beyond those it starts with.

    Without ``memory``, half of what the machine has.
    """

    seconds: float = 1800.0
    memory: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("memory", self.memory)):
            if value is not None and not value > 0:
                raise MlcflowError(f"limit of a worker: {name}: expected more than 0, got {value}")

    @property
    def bytes(self) -> int:
        """The limit on memory."""
        if self.memory is not None:
            return self.memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class WorkerDied(MlcflowError):
    """The worker gave no answer.

    ``how`` says how it ended; ``last`` is the last note it sent, ``{}`` if none; ``output`` what
    it wrote to standard error; ``telling`` the lines of that which say why.
    """

    def __init__(self, how: str, last: dict[str, Any], output: str) -> None:
        self.how, self.last, self.output = how, last, output
        self.telling = tuple(_telling(output))
        super().__init__("\n  ".join([f"the worker process {how}", *self.telling]))


def is_supported() -> bool:
    """Whether the system has what a worker needs: Linux."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def isolated(
    work: Callable[[Say], bytes],
    limits: Limits | None = None,
    hear: Callable[[dict[str, Any]], None] | None = None,
) -> bytes:
    """What ``work`` returns in a process of its own.

    ``work`` is given a function that sends notes; ``hear`` receives each here, while the worker
    goes on. Raises what ``work`` raises, and ``WorkerDied`` if it ends otherwise or takes more
    than ``limits`` allow. What it writes to standard error appears here when it has ended.
    """
    if not is_supported():
        raise MlcflowError(f"a worker process needs Linux 5.3 or later, not {sys.platform}")
    limits = limits or Limits()
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        reader, writer = os.pipe()
        worker = _fork(lambda: _serve(work, limits, writer, answer, errors))
        os.close(writer)
        notes = _Notes(reader, hear)
        try:
            late = not notes.listen(worker, limits.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)  # it may not have made its group yet
            os.close(reader)
            status = _reap(worker)
        return _outcome(answer, _tail(errors), notes.last, status, late, limits)


def _fork(serve: Callable[[], NoReturn]) -> int:
    """Copy this process; the copy calls ``serve``. Gives the number of the copy."""
    _flush()  # else both would write what waits
    with warnings.catch_warnings():
        # Python warns of threads that are not copied; the worker does not wait for any.
        warnings.simplefilter("ignore", DeprecationWarning)
        worker = os.fork()
    if worker == 0:
        serve()
    return worker


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there may be none
            stream.flush()


def _serve(
    work: Callable[[Say], bytes], limits: Limits, notes: int, answer: IO[bytes], errors: IO[bytes]
) -> NoReturn:
    """Do the work, write the answer, end. No handler or destructor of the caller's runs."""
    code = 1
    try:
        _settle(limits, errors)

        def say(note: dict[str, Any]) -> None:
            data = memoryview(json.dumps(note).encode() + b"\n")
            while data:
                data = data[os.write(notes, data) :]

        try:
            data = _ANSWER + work(say)
        except BaseException as error:
            data = _ERROR + json.dumps(to_data(error)).encode()
        answer.write(data)
        answer.flush()
        _flush()
        code = 0
    finally:
        os._exit(code)


def _settle(limits: Limits, errors: IO[bytes]) -> None:
    """Make the copy a worker: alone, limited, the first to go when memory is short."""
    import resource

    gc.freeze()  # to destroy a context of the caller's would wait for its threads
    os.setsid()  # Ctrl-C is for the caller, who ends the worker
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.dup2(errors.fileno(), 2)
    faulthandler.disable()  # it would tell of a crash as if it were the caller's
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _data_bytes() + limits.bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # the threads of OpenMP are not copied


def _data_bytes() -> int:
    """Bytes of this process that count for the limit: private memory that can be written."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0


class _Notes:
    """The notes of a worker, one a line, as they come."""

    def __init__(self, reader: int, hear: Callable[[dict[str, Any]], None] | None) -> None:
        self.last: dict[str, Any] = {}
        self._reader, self._hear, self._rest = reader, hear, b""
        os.set_blocking(reader, False)

    def listen(self, worker: int, seconds: float) -> bool:
        """Hear until the worker has ended; whether it did so in time."""
        end = time.monotonic() + seconds
        ended = os.pidfd_open(worker)
        try:
            waiting = select.poll()
            waiting.register(ended, select.POLLIN)
            waiting.register(self._reader, select.POLLIN)
            while (left := end - time.monotonic()) > 0:
                ready = {file for file, _ in waiting.poll(left * 1e3)}
                if self._reader in ready and not self._take():
                    waiting.unregister(self._reader)
                if ended in ready:
                    while self._take():
                        pass
                    return True
            return False
        finally:
            os.close(ended)

    def _take(self) -> bool:
        """Hear what is there; whether there was something."""
        try:
            data = os.read(self._reader, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.last = json.loads(line)
            if self._hear:
                self._hear(self.last)
        return bool(data)


def _reap(worker: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    except ChildProcessError:  # somebody else waits for all children
        return 1


def _outcome(
    answer: IO[bytes], output: str, last: dict[str, Any], status: int, late: bool, limits: Limits
) -> bytes:
    """The answer, or the exception that takes its place."""
    answer.seek(0)
    kind, data = answer.read(1), answer.read()
    died = late or status != 0 or kind not in (_ANSWER, _ERROR)
    if output and (not died or log.isEnabledFor(logging.INFO)):
        sys.stderr.write(output)  # of one that died, the error has what matters
    if died:
        raise WorkerDied(_how(status, late, output, limits), last, output)
    if kind == _ANSWER:
        return data
    error, trace = from_data(json.loads(data))
    if isinstance(error, MemoryError):
        raise WorkerDied(_out_of_memory(limits), last, output) from trace
    raise error from trace


# Native code that gets no memory throws, or goes on with a null pointer.
_HINTS = {
    "SIGKILL": ", as it is when the machine has no memory left",
    "SIGSEGV": " (with its limit of {:.3g} GiB of memory)",
}


def _how(status: int, late: bool, output: str, limits: Limits) -> str:
    if late:
        return f"was not done within {limits.seconds:g} s"
    if any(text in output for text in _NO_MEMORY):
        return _out_of_memory(limits)
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}{_HINTS.get(name, '').format(limits.bytes / 2**30)}"


def _out_of_memory(limits: Limits) -> str:
    return f"needed more than {limits.bytes / 2**30:.3g} GiB of memory"


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    return file.read().decode(errors="replace")


def _telling(output: str) -> list[str]:
    """The lines of what a dying process wrote that say why."""
    lines = [line.strip() for line in output.splitlines()]
    return list(dict.fromkeys(x for x in lines if any(mark in x for mark in _TELLING)))[:5]
