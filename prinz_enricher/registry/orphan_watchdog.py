"""Runs a command that ends with the process that started it; a program of its own, of the standard library alone.

`python orphan_watchdog.py GRACE COMMAND...` starts the command in a process group of its own. Standard input is a
pipe: when it closes, as its holder closed it, ended, or was killed, the group gets SIGTERM, and SIGKILL after GRACE
seconds. If the command ends by itself, so does this program, with its exit code, or 128 + the signal's number. Linux's
`PR_SET_PDEATHSIG` would report the death of the *thread* that started the child, and only to the child.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    grace, command = float(arguments[0]), arguments[1:]
    # Caught and not ignored: the command would inherit an ignored signal.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    ended = threading.Event()

    def stop_with_holder() -> None:
        while os.read(0, 4096):
            continue
        _signal_group(child.pid, signal.SIGTERM)
        if not ended.wait(grace):
            _signal_group(child.pid, signal.SIGKILL)

    threading.Thread(target=stop_with_holder, daemon=True).start()
    # Not reaped yet, so that its number, which is the group's, can't belong to anyone else.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended.set()
    _signal_group(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
