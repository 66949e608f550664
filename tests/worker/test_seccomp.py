"""The filter of system calls, run as the kernel runs it, for machines that this one is not."""

from __future__ import annotations

import errno
import platform
import socket
from collections.abc import Callable

import pytest

from prinz_enricher.worker.sandbox import DENIED, IGNORED, NotSupported, filter_program, number_of

PID = 4321
ALLOWED = 0
NOTHING = -1
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386, ARM = 0x40000003, 0x40000028
_LOAD, _RETURN = 0x20, 0x06
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}


@pytest.fixture(params=list(ARCHITECTURES))
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each machine that is known."""
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


def outcome(
    machine: str, number: int, first: int = 0, *, network: bool = False, architecture: int | None = None
) -> int:
    """Tell the error of a system call; ALLOWED where it passes, NOTHING where it does nothing and says it did."""
    data = {0: number, 4: ARCHITECTURES[machine] if architecture is None else architecture, 16: first & 0xFFFFFFFF}
    lines = filter_program(PID, network=network)
    at = held = 0
    while True:
        code, holds, fails, value = lines[at]
        at += 1
        if code == _LOAD:
            held = data[value]
        elif code == _RETURN:
            return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF or NOTHING
        else:
            at += holds if _COMPARISONS[code](held, value) else fails


@pytest.mark.parametrize("call", DENIED)
def test_what_no_model_needs_is_refused(machine: str, call: str) -> None:
    """With the network and without."""
    for network in (False, True):
        assert outcome(machine, number_of(call), network=network) == errno.EPERM


@pytest.mark.parametrize("call", IGNORED)
def test_no_process_leaves_its_group(machine: str, call: str) -> None:
    """The call does nothing, and its caller goes on."""
    assert outcome(machine, number_of(call)) == NOTHING


@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, 16, 17, 38, 40, 0, -1])
def test_without_network_there_are_unix_sockets_alone(machine: str, call: str, family: int) -> None:
    """Not those of the kernel's own families either."""
    assert outcome(machine, number_of(call), family) == errno.EACCES
    assert outcome(machine, number_of(call), family, network=True) == ALLOWED
    assert outcome(machine, number_of(call), socket.AF_UNIX) == ALLOWED


def test_processes_and_threads_are_made_but_no_namespaces(machine: str) -> None:
    """`clone3` hides its flags, so that the C library has to use `clone`."""
    thread, fork, user_namespace, time_namespace = 0x3D0F00, 0x1200011, 0x10000000, 0x80
    assert outcome(machine, number_of("clone"), thread) == ALLOWED
    assert outcome(machine, number_of("clone"), fork) == ALLOWED
    assert outcome(machine, number_of("clone"), fork | user_namespace) == errno.EPERM
    assert outcome(machine, number_of("clone3")) == errno.ENOSYS
    assert outcome(machine, number_of("unshare"), 0x400) == ALLOWED
    assert outcome(machine, number_of("unshare"), user_namespace) == errno.EPERM
    assert outcome(machine, number_of("unshare"), time_namespace) == errno.EPERM


def test_limits_are_a_process_s_own(machine: str) -> None:
    """The front runs as the same user, and its limits could be lowered."""
    assert outcome(machine, number_of("prlimit64"), 0) == ALLOWED
    assert outcome(machine, number_of("prlimit64"), PID) == ALLOWED
    assert outcome(machine, number_of("prlimit64"), PID + 1) == errno.EPERM


def test_no_other_numbering_of_calls_gets_by(machine: str) -> None:
    """The calls of 32-bit machines, and those of x32, would mean something else."""
    for architecture in {I386, ARM, *ARCHITECTURES.values()} - {ARCHITECTURES[machine]}:
        assert outcome(machine, number_of("landlock_add_rule"), architecture=architecture) == errno.EPERM
    x32 = outcome(machine, 0x40000000 | number_of("ptrace"))
    assert x32 == (errno.ENOSYS if machine == "x86_64" else ALLOWED)


def test_all_else_passes(machine: str) -> None:
    """What is not named is not touched."""
    named = {*DENIED, *IGNORED, "socket", "socketpair", "clone", "clone3", "unshare", "prlimit64"}
    numbers = {number_of(call) for call in named}
    assert all(outcome(machine, number) == ALLOWED for number in range(500) if number not in numbers)


@pytest.mark.parametrize("name", ["riscv64", "i686", ""])
def test_a_machine_whose_calls_are_not_known_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong number would refuse, or allow, another call."""
    monkeypatch.setattr(platform, "machine", lambda: name)
    with pytest.raises(NotSupported):
        filter_program(PID, network=False)
