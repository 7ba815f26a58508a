"""A directory of entries, each verified before it is used: where compiled programs are kept.

What is read from it is run as machine code, so nobody else may have written it. A directory or
an entry that another user owns or can write, a symbolic link in the place of either, a file
that is cut short or changed: all are refused, and the program is compiled again. Entries are
written at once or not at all, and are never changed; the oldest in use make room for new ones.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlcflow.errors import MlcflowError

MAGIC = b"mlcflow cache 1\n"
SUFFIX, PART = ".entry", ".part"
LIMIT = 1 << 30
"""Bytes of all entries together."""
STALE = 3600.0
"""Seconds after which a file that was not finished is left over from a process that died."""

_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = _READ | getattr(os, "O_DIRECTORY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (_READ & ~os.O_RDONLY)


class Refused(MlcflowError):
    """The directory or an entry is not to be trusted."""


def is_supported() -> bool:
    """Whether the system has what the checks need: owners, and files relative to a directory."""
    return os.name == "posix" and os.open in os.supports_dir_fd


@dataclass(frozen=True)
class Entry:
    """A file of the cache: its key, bytes on disk, when it was last used (seconds)."""

    key: str
    size: int
    used: float


@dataclass(frozen=True)
class Cache:
    """The entries below ``path``, up to ``limit`` bytes in all."""

    path: Path
    limit: int = LIMIT

    def read(self, key: str) -> bytes | None:
        """What was written under ``key``, ``None`` if there is nothing.

        Raises ``Refused`` for what is not to be trusted, ``OSError`` for what cannot be read.
        """
        try:
            with self._directory(make=False) as folder, _opened(key + SUFFIX, folder) as file:
                size = _check_file(file, f"{self.path / key}{SUFFIX}", self.limit)
                data = _read_all(file, size)
                content = _unwrap(data, key, f"{self.path / key}{SUFFIX}")
                with suppress(OSError):  # it may be on a disk that cannot be written
                    os.utime(file)
                return content
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Keep ``content`` under ``key``, and drop the oldest entries if there are too many.

        Raises ``Refused`` for a directory that is not to be trusted, ``OSError``.
        """
        data = b"".join([MAGIC, _digest(key, content), content])
        if len(data) > self.limit:
            return
        part = f"{secrets.token_hex(16)}{PART}"
        with self._directory(make=True) as folder:
            file = os.open(part, _CREATE, 0o600, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as stream:
                    stream.write(data)
                os.replace(part, key + SUFFIX, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
            self._make_room(folder, key)

    def entries(self) -> list[Entry]:
        """All entries, the oldest first. Raises ``Refused``, ``OSError``."""
        try:
            with self._directory(make=False) as folder:
                return sorted(_list(folder, SUFFIX), key=lambda entry: (entry.used, entry.key))
        except FileNotFoundError:
            return []

    def clear(self) -> int:
        """Remove all entries; gives how many there were. Raises ``Refused``, ``OSError``."""
        found = self.entries()
        for entry in found:
            self.remove(entry.key)
        return len(found)

    def remove(self, key: str) -> None:
        """Remove one entry, if it is there. Raises ``Refused``, ``OSError``."""
        with suppress(FileNotFoundError), self._directory(make=False) as folder:
            os.unlink(key + SUFFIX, dir_fd=folder)

    @contextmanager
    def _directory(self, *, make: bool) -> Iterator[int]:
        """The directory, opened and found to be the user's alone."""
        if make and not os.path.lexists(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process was faster
                self.path.mkdir(mode=0o700)
        try:
            folder = os.open(self.path, _DIRECTORY)
        except NotADirectoryError as error:
            raise Refused(f"{self.path}: expected a directory, not a file or a link") from error
        except OSError as error:
            if self.path.is_symlink():
                raise Refused(f"{self.path}: expected a directory, not a link") from error
            raise
        try:
            _check_owner(os.fstat(folder), str(self.path))
            yield folder
        finally:
            os.close(folder)

    def _make_room(self, folder: int, keep: str) -> None:
        entries = sorted(_list(folder, SUFFIX), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        left_over = [e.key + PART for e in _list(folder, PART) if e.used < time.time() - STALE]
        for entry in entries:
            if total > self.limit and entry.key != keep:
                left_over.append(entry.key + SUFFIX)
                total -= entry.size
        for name in left_over:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    try:
        # A pipe in its place would let the call wait for a writer.
        file = os.open(name, _READ | getattr(os, "O_NONBLOCK", 0), dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{name}: expected a file, not a link") from error
        raise
    try:
        yield file
    finally:
        os.close(file)


def _check_owner(status: os.stat_result, name: str) -> None:
    if status.st_uid != os.geteuid():
        raise Refused(f"{name}: belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(f"{name}: others may write into it; chmod go-w makes it the user's own")


def _check_file(file: int, name: str, limit: int) -> int:
    """The size of an entry that is the user's own."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{name}: expected a file")
    _check_owner(status, name)
    if status.st_nlink > 1:
        raise Refused(f"{name}: has another name elsewhere")
    if status.st_size > limit:
        raise Refused(f"{name}: {status.st_size} bytes are more than the {limit} of the cache")
    return status.st_size


def _read_all(file: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(file, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _digest(key: str, content: bytes) -> bytes:
    """Of the content under this name: an entry that was renamed is no other entry."""
    return hashlib.sha256(key.encode() + b"\n" + content).digest()


def _unwrap(data: bytes, key: str, name: str) -> bytes:
    start = len(MAGIC) + hashlib.sha256().digest_size
    content = data[start:]
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != _digest(key, content):
        raise Refused(f"{name}: is damaged")
    return content


def _list(folder: int, suffix: str) -> Iterator[Entry]:
    for name in os.listdir(folder):
        if name.endswith(suffix):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                yield Entry(name.removesuffix(suffix), status.st_size, status.st_mtime)
