"""Runs a command for as long as the process that started it lives; a program of its own, of the standard library alone.

`python lifeline.py GRACE COMMAND...` starts the command in a process group of its own and holds the reading end of a
pipe as standard input. When the pipe closes (its holder closed it, ended, or was killed), the whole group is asked to
end, and killed after GRACE seconds. When the command ends by itself, so does this program, with the same exit code.

A pipe tells of every kind of death and on every system; Linux's `PR_SET_PDEATHSIG` tells of the death of the *thread*
that started the child, and only to the child, not to the processes that it starts.
"""

from __future__ import annotations

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
    """Run the command.

    Args:
        arguments: Seconds of grace, then the command and its arguments.

    Returns:
        The command's exit code; 128 + signal number where a signal ended it.
    """
    grace, command = float(arguments[0]), arguments[1:]
    # Caught and not ignored: what is ignored stays so in the command.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    ended = threading.Event()

    def end_with_the_holder() -> None:
        while os.read(0, 4096):
            continue
        _signal_group(child.pid, signal.SIGTERM)
        if not ended.wait(grace):
            _signal_group(child.pid, signal.SIGKILL)

    threading.Thread(target=end_with_the_holder, daemon=True).start()
    # Not reaped yet, so that its number, which is the group's, can't belong to anyone else.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended.set()
    _signal_group(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
