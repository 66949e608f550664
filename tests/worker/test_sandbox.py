"""What a process can do to itself, and what it tells where the system has no means for it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.worker.sandbox import Policy

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux confines a process")

ROOT = Path(__file__).parents[2]

CONFINE = """
import errno, json, os, sys
sys.path.insert(0, sys.argv[1])
from prinz_enricher.worker import sandbox


def lacking(error):
    def call(*_, **__):
        raise OSError(error, os.strerror(error))
    return call


policy = sandbox.Policy.read(json.loads(sys.argv[2]))
exec(sys.argv[3])
told = sandbox.confine(policy)
found = None
exec(sys.argv[4])
print(json.dumps([told.confined, told.unconfined, found]))
"""
TRY_SOCKET = """
import socket
try:
    with socket.socket() as one:
        one.settimeout(5)
        found = one.connect_ex(("192.0.2.1", 9))
except OSError as exc:
    found = exc.errno
"""


def confined(policy: dict[str, Any], before: str = "", after: str = "") -> tuple[list[str], dict[str, str], Any]:
    """Confine a process; tell what is in force, what is not, and what was found after."""
    done = subprocess.run(
        [sys.executable, "-c", CONFINE, str(ROOT), json.dumps(policy), before, after],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: tuple[list[str], dict[str, str], Any] = json.loads(done.stdout)
    return found


def test_what_is_left_out_of_a_policy_is_not_limited() -> None:
    """An empty one limits nothing that a model may have."""
    assert Policy.read({}) == Policy(None, None, None, True, None)
    assert Policy.read({"memory": 1, "file": 2, "open_files": 3, "network": False, "writable": ["/a"]}) == Policy(
        1, 2, 3, False, ("/a",)
    )


@pytest.mark.parametrize(
    "written",
    [
        None,
        [],
        "all",
        {"memory": "1G"},
        {"memory": -1},
        {"memory": True},
        {"file": 0},
        {"open_files": 1.5},
        {"network": 0},
        {"network": None},
        {"writable": "/a"},
        {"writable": [1]},
        {"netwrok": False},
    ],
)
def test_a_policy_of_another_form_is_refused(written: object) -> None:
    """A word that is misspelt must not leave a model without its limit."""
    with pytest.raises(ValueError, match="policy"):
        Policy.read(written)


def test_a_system_without_landlock_tells_what_is_not_in_force() -> None:
    """All that it would do, and no more."""
    in_force, missing, _ = confined(
        {"network": False, "writable": ["/"]}, "sandbox.restrict_access = lacking(errno.EOPNOTSUPP)"
    )
    assert missing == dict.fromkeys(["files", "processes", "signals", "sockets"], os.strerror(95))
    assert in_force == ["threads", "privileges", "calls", "network"]


def test_an_older_landlock_tells_what_it_does_not_know(tmp_path: Path) -> None:
    """Signals and abstract sockets came late; the rest is in force."""
    write = f"""
try:
    open("{tmp_path}/file", "w")
except OSError as exc:
    found = exc.errno
"""
    in_force, missing, found = confined({"writable": []}, "sandbox.landlock_version = lambda: 2", write)
    assert missing.keys() == {"signals", "sockets"}
    assert {"files", "processes"} <= set(in_force)
    assert found == errno.EACCES


def test_without_a_filter_the_network_is_left_by_a_namespace() -> None:
    """Where that is not allowed either, it is reported."""
    in_force, missing, found = confined({"network": False}, "sandbox.filter_calls = lacking(errno.EINVAL)", TRY_SOCKET)
    assert missing.pop("calls") == os.strerror(22)
    if "network" in in_force:
        assert not missing
        assert found != 0
    else:
        assert missing.keys() == {"network"}
    in_force, missing, _ = confined(
        {"network": False},
        "sandbox.filter_calls = lacking(errno.EINVAL); sandbox.system_call = lacking(errno.EPERM)",
    )
    assert "network" not in in_force
    assert missing["network"] == os.strerror(1)


def test_a_thread_that_ran_before_is_told() -> None:
    """Most parts are for the thread alone that asks for them."""
    started = "import threading; stop = threading.Event(); threading.Thread(target=stop.wait, daemon=True).start()"
    _, missing, _ = confined({}, started)
    assert "1 ran before" in missing["threads"]


def test_the_threads_of_linear_algebra_end_and_come_back() -> None:
    """Those that numpy's import starts; the same sums come out, by threads that are confined."""
    numbers = "import numpy as np; numbers = np.arange(250000.0).reshape(500, 500); before = (numbers @ numbers).sum()"
    in_force, _, found = confined({"network": False}, numbers, "found = bool((numbers @ numbers).sum() == before)")
    assert "threads" in in_force
    assert found is True


def test_root_keeps_no_capability_but_to_read_files() -> None:
    """Nor does what it starts."""
    if os.geteuid():
        pytest.skip("only root has capabilities to lose")
    in_force, _, found = confined(
        {}, "import subprocess", "found = subprocess.check_output(['grep', 'CapEff', '/proc/self/status'], text=True)"
    )
    assert "privileges" in in_force
    assert int(found.split()[1], 16) & ~0b110 == 0


def test_limits_are_hard() -> None:
    """They can't be raised again, and one that is lower already stays."""
    after = """
import resource
kinds = resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE
found = [resource.getrlimit(kind) for kind in kinds]
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (101, 101))
except ValueError:
    found.append("refused")
"""
    in_force, _, found = confined({"file": 1000, "open_files": 100, "memory": 1 << 30}, "", after)
    assert found == [[1000, 1000], [100, 100], [0, 0], "refused"]
    assert {"file", "open_files", "memory"} <= set(in_force)
    lower = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))"
    assert confined({"open_files": 100}, lower, after)[2][1] == [50, 50]


def test_files_can_be_moved_where_they_may_be_written(tmp_path: Path) -> None:
    """From one folder into another, in a policy that leaves files free too."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    move = f"open('{tmp_path}/a/one', 'w').close(); os.rename('{tmp_path}/a/one', '{tmp_path}/b/one'); found = True"
    for policy in ({}, {"writable": [str(tmp_path)]}):
        assert confined(policy, "", move)[2] is True


def test_caches_of_libraries_move_into_the_model_s_own_folder(tmp_path: Path) -> None:
    """Unless they may be written where they are."""
    after = "found = [os.environ.get(name) for name in ('XDG_CACHE_HOME', 'NUMBA_CACHE_DIR', 'JOBLIB_TEMP_FOLDER')]"
    own = str(tmp_path / "cache")
    before = f"os.environ['NUMBA_CACHE_DIR'] = '{tmp_path}/numba'"
    assert confined({"writable": [str(tmp_path)]}, before, after)[2] == [own, f"{tmp_path}/numba", own]
    assert confined({}, "os.environ.pop('XDG_CACHE_HOME', 0)", after)[2] == [None, None, None]
