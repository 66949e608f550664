"""A process that answers questions, a line of JSON each way, one after the other."""

import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from prinz_enricher.registry.registry_errors import RegistryUnreachable

_PAUSE_SECONDS = 5.0
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class LineProcess:
    """Starts a module of ours as a process when it is first needed, and asks it; thread-safe.

    Args:
        arguments: The module, and its arguments.
        environment: Returns its environment variables.
        what: Its name in errors.
        timeout: Seconds for one answer, the start of the process included.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Callable[[], Mapping[str, str]], *, what: str, timeout: float
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._what = what
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused_until = 0.0

    def ask(self, question: Mapping[str, object]) -> Mapping[str, object]:
        """Return the answer to a question; raises RegistryUnreachable if there is none in time."""
        with self._lock:
            return self._ask(json.dumps(question).encode() + b"\n")

    def close(self) -> None:
        """Stop the process; a later question starts another one."""
        with self._lock:
            self._stop()

    def __del__(self) -> None:
        self._stop()

    def _ask(self, question: bytes) -> Mapping[str, object]:
        if time.monotonic() < self._paused_until:
            raise RegistryUnreachable(f"{self._what} gave no answer just now")
        # A process that was idle ends by itself; then another one is asked.
        for _ in range(2):
            process = self._start()
            if process.stdin is None or process.stdout is None:
                break
            try:
                process.stdin.write(question)
                process.stdin.flush()
            except OSError:
                self._stop()
                continue
            if not select.select([process.stdout], [], [], self._timeout)[0]:
                self._stop()
                # Those who waited for their turn meanwhile do not each wait as long again.
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                raise RegistryUnreachable(f"no answer of {self._what} within {self._timeout:g} s")
            if line := process.stdout.readline(_MAX_ANSWER_BYTES):
                answer = json.loads(line)
                return answer if isinstance(answer, dict) else {}
            self._stop()
        raise RegistryUnreachable(f"the process that reads {self._what} ends at once")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self._environment()),
                start_new_session=True,
            )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # Closes the pipes, too, and reaps it.
            process.communicate()
