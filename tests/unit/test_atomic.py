"""Files appear as a whole or not at all, and nobody else decides where the bytes go."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from mlcflow.atomic import whole_file, write_whole


def test_text_and_bytes(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "ä")
    write_whole(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_raises_leaves_nothing_and_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_of_others_are_not_followed(tmp_path: Path, monkeypatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "out"
    target.symlink_to(victim)
    write_whole(target, "mine")
    assert victim.read_text() == "precious" and not target.is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda n: "guessed")
    (tmp_path / ".guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError, match="out"):
        write_whole(target, "again")
    assert victim.read_text() == "precious" and target.read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through")
    assert os.read(reader, 10) == b"through" and pipe.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("name", [".", "missing/file"])
def test_the_error_names_the_file(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as caught:
        write_whole(Path(name), "")
    assert caught.value.filename == str(Path(name))
