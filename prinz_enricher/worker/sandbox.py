"""What a worker does to itself before it runs any code of a model.

A model is someone else's code, and runs as the same user as the front. Each part is enforced as far as the system can;
what could not be enforced is reported, for the front to judge.
"""

from __future__ import annotations

import contextlib
import glob
import os
import resource
import signal
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .kernel import filter_calls, restrict_access, system_call

# Bytes for each processor on top of the limit on memory: threads reserve stacks, and libraries of linear algebra
# buffers for each thread, most of which they never touch.
RESERVE = 64 << 20

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_VERSION = 0x20080522
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: the model may belong to another user than root, who runs this.
_READS_ANY_FILE = 0b110
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000

# What may always be written to: it holds no files of anyone else.
_DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"),
    # Semaphores and arrays that the processes of a model share.
    "/dev/shm",  # noqa: S108 - it is what the system has for this
    *("/dev/nvidia*", "/dev/dri", "/dev/kfd"),
)

# Where libraries write by default, by the variable that changes it.
_CACHES = {
    "XDG_CACHE_HOME": "~/.cache",
    "MPLCONFIGDIR": "~/.config/matplotlib",
    "NUMBA_CACHE_DIR": "~/.cache/numba",
    # Not shared memory, where others could put their own objects in place of the arrays.
    "JOBLIB_TEMP_FOLDER": "/dev/shm",  # noqa: S108 - as said
}


@dataclass(frozen=True)
class Policy:
    """What a model may have.

    Attributes:
        memory: Bytes of memory, the interpreter's own among them; None for no limit.
        file: Bytes of the largest file that it may write; None for no limit.
        open_files: How many descriptors it may have; None for no limit.
        network: Whether it may use the network.
        writable: Folders that it may write to, the first of them its own; None for any.
    """

    memory: int | None = None
    file: int | None = None
    open_files: int | None = None
    network: bool = True
    writable: tuple[str, ...] | None = None

    @classmethod
    def read(cls, written: object) -> Policy:
        """Read a policy that came as JSON, or raise ValueError; what is left out is not limited."""
        if not isinstance(written, dict) or written.keys() - cls.__dataclass_fields__.keys():
            raise ValueError("a policy of another form")
        limits: dict[str, Any] = {name: written.get(name) for name in ("memory", "file", "open_files")}
        network, writable = written.get("network", True), written.get("writable")
        if (
            not all(one is None or (type(one) is int and one > 0) for one in limits.values())
            or not isinstance(network, bool)
            or not (writable is None or (isinstance(writable, list) and all(isinstance(one, str) for one in writable)))
        ):
            raise ValueError("a policy of another form")
        return cls(**limits, network=network, writable=None if writable is None else tuple(writable))


@dataclass(frozen=True)
class SandboxReport:
    """What became of a policy: what is enforced, and what was wanted and is not enforced, and why."""

    confined: list[str] = field(default_factory=list)
    unconfined: dict[str, str] = field(default_factory=dict)

    def attempt(self, what: str, do: Callable[[], object]) -> bool:
        """Enforce a part, and note whether that succeeded."""
        try:
            do()
        except (OSError, ValueError) as exc:
            self.unconfined[what] = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            return False
        self.confined.append(what)
        return True


def confine(policy: Policy) -> SandboxReport:
    """Confine this process and all that it will start; it can't be undone.

    Returns:
        What is enforced, by these names: `privileges` (none can be gained, and root has few left), `memory`, `file`
        and `open_files` as in the policy, `calls` (system calls that no model needs), `network`, `files` (writing),
        `processes` (the memory and environment of others), `signals` (to others), `sockets` (of others, in Linux's
        abstract namespace), `threads` (all of this holds for those that ran before, too).
    """
    report = SandboxReport()
    report.attempt("threads", _end_other_threads)
    report.attempt("privileges", lambda: system_call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _limit(report, policy)
    filtered = report.attempt("calls", lambda: filter_calls(network=policy.network))
    if not policy.network:
        report.attempt("network", (lambda: None) if filtered else _leave_network)
    _restrict_access(report, policy)
    if os.geteuid() == 0 and "privileges" in report.confined:
        header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
        try:
            system_call("capset", header, struct.pack("=6I", _READS_ANY_FILE, _READS_ANY_FILE, 0, 0, 0, 0))
        except OSError:
            report.confined.remove("privileges")
            report.unconfined["privileges"] = "root keeps its capabilities"
    return report


def _end_other_threads() -> None:
    # Most parts apply to the calling thread alone. OpenBLAS, which numpy brings, started threads at its import; it ends
    # them before a fork, and starts others when next it needs them.
    with warnings.catch_warnings():
        # A child that ends at once can't meet a lock that another thread held.
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    others = sum(1 for _ in Path("/proc/self/task").iterdir()) - 1
    if others:
        raise OSError(f"{others} ran before, and are not confined")


def _limit(report: SandboxReport, policy: Policy) -> None:
    with contextlib.suppress(OSError, ValueError):
        _set_limit(resource.RLIMIT_CORE, 0)
    if (memory := policy.memory) is not None:
        report.attempt("memory", lambda: _set_limit(resource.RLIMIT_DATA, memory + _reserved()))
    if (file := policy.file) is not None:
        report.attempt("file", lambda: _set_limit(resource.RLIMIT_FSIZE, file))
        # A file that would be too large is an error to whoever writes it, and no end of the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if (open_files := policy.open_files) is not None:
        report.attempt("open_files", lambda: _set_limit(resource.RLIMIT_NOFILE, open_files))


def _set_limit(kind: int, limit: int) -> None:
    _, most = resource.getrlimit(kind)
    if most not in (-1, resource.RLIM_INFINITY):
        limit = min(limit, most)
    resource.setrlimit(kind, (limit, limit))


def _reserved() -> int:
    """Return how many bytes count for the kernel's limit and are not used: so far, and by threads that will be."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    counted, used = (int(status.get(name, "0").split()[0]) << 10 for name in ("VmData", "RssAnon"))
    return max(0, counted - used) + RESERVE * len(os.sched_getaffinity(0))


def _leave_network() -> None:
    """Move into an empty network namespace, where system calls can't be filtered."""
    with contextlib.suppress(OSError):
        system_call("unshare", _NEW_NETWORK)
        return
    user, group = os.geteuid(), os.getegid()
    system_call("unshare", _NEW_USER | _NEW_NETWORK)
    # Without them the process would be nobody.
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(content, encoding="ascii")


def _restrict_access(report: SandboxReport, policy: Policy) -> None:
    wanted = ["files"] * (policy.writable is not None) + ["processes", "signals", "sockets"]
    paths = None
    if policy.writable is not None:
        paths = [*policy.writable, *(path for pattern in _DEVICES for path in glob.glob(pattern))]  # noqa: PTH207 - patterns of absolute paths
    try:
        missing = restrict_access(paths, network=policy.network)
    except OSError as exc:
        report.unconfined.update(dict.fromkeys(wanted, exc.strerror or str(exc)))
        return
    report.confined.extend(name for name in wanted if name not in missing)
    report.unconfined.update(missing)
    if policy.writable:
        _move_caches(policy.writable)


def _move_caches(writable: tuple[str, ...]) -> None:
    """Have libraries that would write elsewhere write to the first folder."""
    for name, default in _CACHES.items():
        path = Path(os.environ.get(name) or default).expanduser().resolve()
        if not any(path.is_relative_to(Path(folder).resolve()) for folder in writable):
            own = Path(writable[0], "cache")
            own.mkdir(exist_ok=True)
            os.environ[name] = str(own)
