"""Files that are there as a whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream for what will be the file ``path`` when the block ends; nothing if it raises.

    The bytes go to a new file beside it, whose name nobody can guess, and whoever put a file or
    a link of that name there gets an error instead of our bytes. A link at ``path`` itself is
    replaced, not followed. A device or a pipe, such as ``/dev/stdout``, is written directly.
    Raises ``OSError`` that names ``path``.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename in (str(part), part):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file, text as UTF-8; see :func:`whole_file`."""
    with whole_file(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)
