"""A real nginx on a port of its own, which a test stops, starts again and gives other rules."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.deadline import wait_until
from tests.support.processes import children

START_SECONDS = 20.0

_CONFIG = """
daemon off;
master_process on;
worker_processes 1;
pid @FOLDER@/nginx.pid;
@USER@

events {
  worker_connections 1024;
}

http {
  client_body_temp_path @FOLDER@/body;
  proxy_temp_path @FOLDER@/proxy;
  fastcgi_temp_path @FOLDER@/fastcgi;
  uwsgi_temp_path @FOLDER@/uwsgi;
  scgi_temp_path @FOLDER@/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  log_format requests '$status $request_length $request_uri';
  access_log @FOLDER@/access.log requests;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_intercept_errors off;

@RULES@
}
"""


class Nginx:
    """An nginx with one worker process; ends with its context, whatever happened to it.

    Args:
        folder: A new folder, for all that it writes.
        rules: What stands in its `http` block, with @PORT@ for the port and @FOLDER@ for the folder.
    """

    def __init__(self, folder: Path, rules: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._program = _program()
        self._process: subprocess.Popen[bytes] | None = None
        self._write(rules)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        files = {"-p": self._folder, "-c": self._folder / "nginx.conf", "-e": self._error_log}
        command = [str(self._program), *(part for flag, path in files.items() for part in (flag, str(path)))]
        # A group of its own, so that it can be killed with its worker process.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        wait_until(self._answers, START_SECONDS)

    def stop(self) -> None:
        """End it at once: what it is answering is broken off."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=START_SECONDS)
        self.kill()

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def reload(self, rules: str | None = None) -> None:
        """Have it read its configuration again, and wait until it goes by that one.

        Args:
            rules: Other rules than before.
        """
        assert self._process is not None
        if rules is not None:
            self._write(rules)
        pid = self._process.pid
        before = set(children(pid))
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(set(children(pid)) - before), START_SECONDS)

    def kill(self) -> None:
        """Kill it with all its processes."""
        process, self._process = self._process, None
        if process is not None:
            # It may have ended by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def seen(self, path: str = "", least: int = 0) -> list[int]:
        """Return the statuses of its answers so far.

        Args:
            path: How the paths begin that count.
            least: Of how many bytes at least the requests are that count.
        """
        log = self._folder / "access.log"
        lines = [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []
        return [int(status) for status, size, uri in lines if uri.startswith(path) and int(size) >= least]

    @property
    def _error_log(self) -> Path:
        return self._folder / "error.log"

    def _write(self, rules: str) -> None:
        user = "user root;" if os.geteuid() == 0 else ""
        text = _CONFIG.replace("@RULES@", rules).replace("@USER@", user)
        text = text.replace("@FOLDER@", str(self._folder)).replace("@PORT@", str(self.port))
        (self._folder / "nginx.conf").write_text(text)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"nginx ended: {self._error_log.read_text()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5.0).close()
        except OSError:
            return False
        return True


def _program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    assert found, "nginx is needed by these tests and is not installed here; on Debian: apt-get install nginx-light"
    return found
