"""The systemd unit, and what the service reports to systemd."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prinz_enricher.config import ServerSettings
from tests.support.serve_process import serve

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "prinz-enricher.service"
KEYS = re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), flags=re.MULTILINE)
WORKER_CALLS = {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}


def test_unit_is_valid(tmp_path: Path) -> None:
    """The unit is one that systemd reads without a complaint."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_lets_the_service_work() -> None:
    """The unit waits for the drain, keeps what workers confine themselves by, and nothing that models need is refused.

    On systemd 252 its set of calls for services has neither seccomp nor Landlock.
    """
    keys = dict(KEYS)
    allowed = {call for key, value in KEYS if key == "SystemCallFilter" for call in value.split()}
    assert allowed == {"@system-service", *WORKER_CALLS}
    assert keys["SystemCallErrorNumber"] == "EPERM"
    assert int(keys["TimeoutStopSec"]) > ServerSettings().grace_period + 10
    assert int(keys["LimitNOFILE"]) >= 65536
    assert keys["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (keys["KillMode"], keys["OOMPolicy"], keys["Type"]) == ("mixed", "continue", "notify")
    assert not keys.keys() & {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork", "NoExecPaths", "PrivateUsers"}
    hardened = {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "CapabilityBoundingSet": ""}
    assert hardened.items() <= keys.items()
    assert {"StateDirectory", "CacheDirectory", "PrivateTmp"} <= keys.keys()


@pytest.mark.parametrize("abstract", [False, True])
def test_service_reports_its_state(abstract: bool, tmp_path: Path) -> None:
    """It is READY once it listens, RELOADING while it reads its settings again, and STOPPING when it drains."""
    file = tmp_path / "prinz.toml"
    file.write_text('registry.url = "http://127.0.0.1:9"\n')
    address = f"\0{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        variables = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        with serve("--config", str(file), until="listening", variables=variables) as running:
            assert systemd.recv(100) == b"READY=1"
            running.process.send_signal(signal.SIGHUP)
            state, time = systemd.recv(100).split(b"\n")
            assert (state, time.startswith(b"MONOTONIC_USEC=")) == (b"RELOADING=1", True)
            assert systemd.recv(100) == b"READY=1"
            assert running.end() == 0
        assert systemd.recv(100) == b"STOPPING=1"
