"""The directory of entries: what is read is what was written, by this user, or nothing."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from mlcflow.runtime import cache as module
from mlcflow.runtime.cache import MAGIC, Cache, Refused

KEY, OTHER = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
CONTENT = bytes(range(256)) * 40

pytestmark = pytest.mark.skipif(not module.is_supported(), reason="needs owners of files")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "below" / "cache")


def file_of(cache: Cache, key: str = KEY) -> Path:
    return cache.path / f"{key}.entry"


def test_what_was_written_is_read(cache: Cache) -> None:
    assert cache.read(KEY) is None and cache.entries() == []
    cache.write(KEY, CONTENT)
    assert cache.read(KEY) == CONTENT and cache.read(OTHER) is None
    cache.write(KEY, b"")
    assert cache.read(KEY) == b""
    assert [entry.key for entry in cache.entries()] == [KEY]
    assert [path.name for path in cache.path.iterdir()] == [f"{KEY}.entry"]


def test_only_the_user_can_read_and_write_it(cache: Cache) -> None:
    cache.write(KEY, CONTENT)
    assert cache.path.stat().st_mode & 0o777 == 0o700
    assert file_of(cache).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["short", "empty", "longer", "a bit", "magic", "digest"])
def test_a_damaged_entry(cache: Cache, change: str) -> None:
    cache.write(KEY, CONTENT)
    data = bytearray(file_of(cache).read_bytes())
    if change == "short":
        del data[-1]
    elif change == "empty":
        data.clear()
    elif change == "longer":
        data += b"\0"
    else:
        data[{"a bit": len(data) // 2, "magic": 3, "digest": len(MAGIC) + 1}[change]] ^= 1
    file_of(cache).write_bytes(bytes(data))
    with pytest.raises(Refused, match=r"\.entry: is damaged"):
        cache.read(KEY)
    cache.write(KEY, CONTENT)
    assert cache.read(KEY) == CONTENT


def test_every_length_of_a_torn_file_is_noticed(cache: Cache) -> None:
    cache.write(KEY, b"content")
    data = file_of(cache).read_bytes()
    for length in range(len(data)):
        file_of(cache).write_bytes(data[:length])
        with pytest.raises(Refused):
            cache.read(KEY)


def test_an_entry_under_the_name_of_another(cache: Cache) -> None:
    cache.write(KEY, CONTENT)
    file_of(cache).rename(file_of(cache, OTHER))
    with pytest.raises(Refused, match="is damaged"):
        cache.read(OTHER)


def test_a_link_in_the_place_of_an_entry(cache: Cache, tmp_path: Path) -> None:
    cache.write(KEY, CONTENT)
    elsewhere = tmp_path / "elsewhere"
    file_of(cache).rename(elsewhere)
    file_of(cache).symlink_to(elsewhere)
    with pytest.raises(Refused, match="expected a file, not a link"):
        cache.read(KEY)
    cache.write(KEY, b"new")  # replaces the link, not what it leads to
    assert cache.read(KEY) == b"new" and elsewhere.read_bytes().endswith(CONTENT)


def test_a_second_name_of_an_entry(cache: Cache, tmp_path: Path) -> None:
    cache.write(KEY, CONTENT)
    os.link(file_of(cache), tmp_path / "second")
    with pytest.raises(Refused, match="has another name elsewhere"):
        cache.read(KEY)


def test_something_else_in_the_place_of_an_entry(cache: Cache) -> None:
    cache.write(OTHER, CONTENT)
    file_of(cache).mkdir()
    with pytest.raises((Refused, OSError)):
        cache.read(KEY)
    file_of(cache).rmdir()
    os.mkfifo(file_of(cache))
    with pytest.raises(Refused, match="expected a file"):
        cache.read(KEY)  # and does not wait for somebody who writes


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write(cache: Cache, mode: int) -> None:
    cache.write(KEY, CONTENT)
    file_of(cache).chmod(mode)
    with pytest.raises(Refused, match=r"others may write into it; chmod go-w"):
        cache.read(KEY)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_may_write(cache: Cache, mode: int) -> None:
    cache.write(KEY, CONTENT)
    cache.path.chmod(mode)
    actions = (lambda: cache.read(KEY), lambda: cache.write(OTHER, b""), cache.entries, cache.clear)
    for act in actions:
        with pytest.raises(Refused, match=r"others may write into it"):
            act()
    assert file_of(cache).exists() and not file_of(cache, OTHER).exists()


def test_what_belongs_to_another_user(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(KEY, CONTENT)
    monkeypatch.setattr(os, "geteuid", lambda: file_of(cache).stat().st_uid + 1)
    with pytest.raises(Refused, match="belongs to another user"):
        cache.read(KEY)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_an_entry_of_another_user(cache: Cache) -> None:
    cache.write(KEY, CONTENT)
    os.chown(file_of(cache), 12345, 12345)
    with pytest.raises(Refused, match=r"\.entry: belongs to another user"):
        cache.read(KEY)


def test_a_link_in_the_place_of_the_directory(cache: Cache, tmp_path: Path) -> None:
    real = Cache(tmp_path / "real")
    real.write(KEY, CONTENT)
    cache.path.parent.mkdir()
    cache.path.symlink_to(real.path)
    for act in (lambda: cache.read(KEY), lambda: cache.write(OTHER, b""), cache.entries):
        with pytest.raises(Refused, match="expected a directory, not"):
            act()
    cache.path.unlink()
    cache.path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused, match="expected a directory, not"):
        cache.write(KEY, b"")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_place_of_the_directory(cache: Cache) -> None:
    cache.path.parent.mkdir()
    cache.path.write_text("")
    with pytest.raises(Refused, match="expected a directory"):
        cache.write(KEY, b"")


def test_the_oldest_make_room(cache: Cache) -> None:
    small = Cache(cache.path, limit=5 * 1100)
    keys = [hashlib.sha256(bytes([n])).hexdigest() for n in range(5)]
    for age, key in enumerate(keys):
        small.write(key, bytes(1000))
        os.utime(file_of(small, key), (0, 1000 + age))
    assert small.read(keys[0]) == bytes(1000)  # used again: the newest now
    small.write(OTHER, bytes(2000))
    kept = [entry.key for entry in small.entries()]
    assert set(kept) == {keys[3], keys[4], keys[0], OTHER}
    assert sum(entry.size for entry in small.entries()) <= small.limit


def test_an_entry_larger_than_the_cache_is_not_kept(cache: Cache) -> None:
    small = Cache(cache.path, limit=1000)
    small.write(KEY, bytes(1000))
    assert small.entries() == [] and small.read(KEY) is None
    cache.write(KEY, bytes(1000))
    with pytest.raises(Refused, match="are more than the 1000"):
        small.read(KEY)


def test_what_a_process_that_died_left_over(cache: Cache) -> None:
    cache.write(KEY, CONTENT)
    old, new = cache.path / "old.part", cache.path / "new.part"
    for path, age in ((old, 2 * module.STALE), (new, 0)):
        path.write_text("")
        os.utime(path, (0, time.time() - age))
    cache.write(OTHER, CONTENT)
    assert not old.exists() and new.exists()


def test_nothing_is_left_of_a_write_that_failed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write(KEY, CONTENT)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        cache.write(KEY, b"other")
    assert [path.name for path in cache.path.iterdir()] == [f"{KEY}.entry"]
    assert cache.read(KEY) == CONTENT


def test_clear_and_remove(cache: Cache) -> None:
    assert cache.clear() == 0
    cache.write(KEY, CONTENT)
    cache.write(OTHER, CONTENT)
    cache.remove(KEY)
    cache.remove(KEY)
    assert [entry.key for entry in cache.entries()] == [OTHER]
    assert cache.clear() == 1 and cache.entries() == []


def test_many_write_and_read_at_once(cache: Cache) -> None:
    """Whoever reads sees a whole entry or none."""
    contents = [bytes([n]) * 50_000 for n in range(4)]
    problems: list = []

    def work(number: int) -> None:
        try:
            for _ in range(50):
                cache.write(KEY, contents[number])
                if cache.read(KEY) not in contents:
                    problems.append("torn")
        except Exception as error:
            problems.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []
