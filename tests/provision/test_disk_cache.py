"""The disk cache: entries made once, whole or not at all, shared between processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prinz_enricher.provision.disk_cache import DiskCache
from prinz_enricher.provision.file_lock import try_lock
from prinz_enricher.provision.provision_errors import CacheUnusable, Cancelled
from tests.provision.entries import KEY, KEYS, LARGE, filling, names, unwanted
from tests.support.deadline import wait_until

ROOT = Path(__file__).parents[2]


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    """Start a Python program that gets the folder of the cache as its argument."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    """The first call makes it, under a name that is not yet the entry's; others use it."""
    cache = DiskCache(tmp_path / "cache", max_bytes=LARGE)
    seen: list[Path] = []

    def fill(folder: Path) -> None:
        seen.append(folder)
        filling()(folder)

    with cache.acquire(KEY, fill) as first:
        assert first.fresh
        assert first.path == tmp_path / "cache" / KEY
        assert seen[0].parent == first.path.parent
        assert seen[0] != first.path
        assert (first.path / "file").read_text() == "content"
    with DiskCache(tmp_path / "cache", max_bytes=LARGE).acquire(KEY, unwanted, check=False) as second:
        assert not second.fresh
        assert (second.path / "file").read_text() == "content"
    second.close()


def test_keys_are_digests(tmp_path: Path) -> None:
    """Nothing else becomes a file's name."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)
    for key in ("", "abc", "../aaaaaaaa", "AAAAAAAA", "aaaaaaaa/b", "aaaaaaaa\n", "a" * 129):
        with pytest.raises(ValueError, match="a key has"):
            cache.acquire(key, unwanted)
    assert not names(tmp_path)


def test_the_folder_is_for_this_user_alone(tmp_path: Path) -> None:
    """Its entries are code: no one else may read or change them; an open folder is closed."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    with DiskCache(folder, max_bytes=LARGE).acquire(KEY, filling()) as lease:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(lease.path.stat().st_mode) == 0o700


def test_threads_share_one_filling(tmp_path: Path) -> None:
    """Many that want the same at once get it from the one that makes it."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)
    begun, go = threading.Event(), threading.Event()
    fills: list[Path] = []

    def fill(folder: Path) -> None:
        fills.append(folder)
        begun.set()
        assert go.wait(30)
        filling()(folder)

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(cache.acquire, KEY, fill, check=True) for _ in range(8)]
        assert begun.wait(30)
        assert not (tmp_path / KEY).exists()
        go.set()
        leases = [one.result(30) for one in asked]
    assert len(fills) == 1
    assert sorted(lease.fresh for lease in leases) == [False] * 7 + [True]
    for lease in leases:
        lease.close()


SHARING = """
import sys
from pathlib import Path
from prinz_enricher.provision.disk_cache import DiskCache

def fill(folder):
    print("filling", flush=True)
    sys.stdin.readline()
    (folder / "file").write_text("content")

lease = DiskCache(Path(sys.argv[1]), max_bytes=1 << 30).acquire("00000000", fill, check=True)
print(lease.fresh, (lease.path / "file").read_text(), flush=True)
sys.stdin.readline()
"""


def test_processes_share_one_filling(tmp_path: Path) -> None:
    """The second waits for the first, and both hold the entry then: nobody can remove it."""
    with start(SHARING, tmp_path) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "filling\n"
        with start(SHARING, tmp_path) as second:
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.stdout.readline() == "True content\n"
            assert second.stdout is not None
            assert second.stdout.readline() == "False content\n"
            # A cache of no size: what it makes pushes all out that nobody holds.
            small = DiskCache(tmp_path, max_bytes=0)
            small.acquire(KEYS[1], filling()).close()
            assert (tmp_path / KEY / "file").exists()
            second.communicate("\n", timeout=30)
        first.communicate("\n", timeout=30)
    small.acquire(KEYS[2], filling()).close()
    assert not (tmp_path / KEY).exists()


@pytest.mark.parametrize("key", [KEY, KEYS[1]])
def test_what_a_killed_process_left_is_swept(tmp_path: Path, key: str) -> None:
    """Its half of an entry is never seen, and goes with the next that is made, of the same key or another."""
    with start(SHARING, tmp_path) as filler:
        assert filler.stdout is not None
        assert filler.stdout.readline() == "filling\n"
        filler.kill()
    assert [name for name in names(tmp_path) if name.startswith(f"{KEY}.tmp-")]
    with DiskCache(tmp_path, max_bytes=LARGE).acquire(key, filling(), check=True) as lease:
        assert lease.fresh
    assert names(tmp_path) == [f"{key}{end}" for end in ("", ".json", ".lock", ".use")]


def test_a_filling_under_way_is_not_swept(tmp_path: Path) -> None:
    """What another process is making stays, however long it takes."""
    with start(SHARING, tmp_path) as filler:
        assert filler.stdout is not None
        assert filler.stdout.readline() == "filling\n"
        DiskCache(tmp_path, max_bytes=0).acquire(KEYS[1], filling()).close()
        answer, errors = filler.communicate("\n\n", timeout=30)
    assert answer == "True content\n", errors


def test_a_cancelled_wait_ends(tmp_path: Path) -> None:
    """Who does not want an entry any more does not wait for the one that makes it."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)
    begun, go, cancel = threading.Event(), threading.Event(), threading.Event()

    def fill(folder: Path) -> None:
        begun.set()
        assert go.wait(30)
        filling()(folder)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.acquire, KEY, fill)
        assert begun.wait(30)
        second = threads.submit(cache.acquire, KEY, unwanted, cancelled=cancel.is_set)
        cancel.set()
        with pytest.raises(Cancelled):
            second.result(30)
        go.set()
        first.result(30).close()


def test_a_filling_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Its error is told, and the next may try again."""
    cache = DiskCache(tmp_path, max_bytes=LARGE)

    def fail(folder: Path) -> None:
        filling()(folder)
        locked = folder / "locked"
        locked.mkdir()
        (locked / "file").touch()
        locked.chmod(0o500)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        cache.acquire(KEY, fail)
    assert not names(tmp_path)
    with cache.acquire(KEY, filling()) as lease:
        assert lease.fresh


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """It is told in a sentence, and may pass."""
    program = """
import resource, sys
from pathlib import Path
from prinz_enricher.provision.provision_errors import CacheUnusable
from prinz_enricher.provision.disk_cache import DiskCache
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

def fill(folder):
    (folder / "small").write_bytes(bytes(900))
    if sys.stdin.readline() == "large\\n":
        (folder / "large").write_bytes(bytes(2000))
    for number in range(20):
        (folder / str(number)).touch()

try:
    # The second is small enough, but its manifest is not.
    DiskCache(Path(sys.argv[1]), max_bytes=1 << 30).acquire("00000000", fill, check=True)
except CacheUnusable as fault:
    print(fault.may_pass, fault)
"""
    for size in ("large", "many"):
        with start(program, tmp_path) as filler:
            answer, errors = filler.communicate(f"{size}\n", timeout=30)
        assert answer == f"True the cache {tmp_path} can't be used: File too large\n", errors
        assert not names(tmp_path)


def test_the_least_recently_used_entries_go(tmp_path: Path) -> None:
    """Those that are held stay, and so does the one just made, even if it alone is too large."""
    cache = DiskCache(tmp_path, max_bytes=250)
    held = cache.acquire(KEYS[0], filling("x" * 100))
    for at, key in enumerate(KEYS[1:3]):
        cache.acquire(key, filling("x" * 50)).close()
        os.utime(tmp_path / f"{key}.use", (at + 1, at + 1))
    os.utime(tmp_path / f"{KEYS[0]}.use", (0, 0))
    # The use of an entry, and not only its making, counts.
    cache.acquire(KEYS[1], unwanted).close()
    cache.acquire(KEYS[3], filling("x" * 100)).close()
    assert [key for key in KEYS if (tmp_path / key).exists()] == [KEYS[0], KEYS[1], KEYS[3]]
    with cache.acquire(KEYS[4], filling("x" * 1000)):
        assert [key for key in KEYS if (tmp_path / key).exists()] == [KEYS[0], KEYS[4]]
    held.close()
    cache.acquire(KEYS[5], filling()).close()
    assert names(tmp_path) == [f"{KEYS[5]}{end}" for end in ("", ".json", ".lock", ".use")]


def test_entries_come_and_go_under_many_hands(tmp_path: Path) -> None:
    """While all push each other out, what is held is there and whole."""
    stop = threading.Event()

    def hand(number: int) -> int:
        cache = DiskCache(tmp_path, max_bytes=8)
        made = 0
        for turn in range(60):
            key = KEYS[(turn * (number + 1) + number) % 4]
            with cache.acquire(key, filling(key), check=True, cancelled=stop.is_set) as lease:
                made += lease.fresh
                assert (lease.path / "file").read_text() == key
        return made

    with ThreadPoolExecutor(6) as threads:
        try:
            made = sum(threads.map(hand, range(6)))
        finally:
            stop.set()
    assert made > 10
    assert not [name for name in names(tmp_path) if ".tmp-" in name]


def test_a_lock_on_a_removed_file_is_none(tmp_path: Path) -> None:
    """Who waited for a lock whose file was removed meanwhile gets one on the file that others see."""
    path = tmp_path / "lock"
    held = try_lock(path)
    assert held is not None
    assert try_lock(path) is None
    assert try_lock(path, shared=True) is None
    descriptor = os.open(path, os.O_RDWR)
    try:
        path.unlink()
        held.release()
        # The old file can be locked again, but that is no lock any more.
        with try_lock(path) or pytest.fail("it is free") as new:
            assert os.fstat(descriptor).st_ino != path.stat().st_ino
            assert try_lock(path) is None
            new.release()
    finally:
        os.close(descriptor)


def test_a_cache_that_can_t_be_used_is_told(tmp_path: Path) -> None:
    """A sentence names it."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusable, match=r"the cache .*file can't be used: File exists"):
        DiskCache(tmp_path / "file", max_bytes=LARGE).acquire(KEY, filling())


def test_the_death_of_a_holder_lets_go(tmp_path: Path) -> None:
    """A lease of a killed process keeps nothing."""
    with start(SHARING, tmp_path) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        wait_until((tmp_path / KEY).exists)
        assert holder.stdout.readline() == "filling\n"
        assert holder.stdout.readline() == "True content\n"
        holder.kill()
    DiskCache(tmp_path, max_bytes=0).acquire(KEYS[1], filling()).close()
    assert not (tmp_path / KEY).exists()
