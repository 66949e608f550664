"""nginx before model servers, as Prinz's callers have it, and as the limit of an HTTP generator."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import NotStarted, Server, free_port

START_SECONDS = 20.0

_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 256m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_read_timeout 300s;
  {blocks}
}}
"""

_PROXY = """
  upstream {model} {{ server {address}; keepalive 128; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{model}; }} }}
"""

_FIXED = """
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{{"predictions": [0.0]}}'; }} }}
"""


@dataclass(frozen=True)
class Nginx:
    """An nginx that runs.

    Attributes:
        server: Its processes.
        addresses: Where it listens for each model.
    """

    server: Server
    addresses: Mapping[str, str]


@contextlib.contextmanager
def nginx(folder: Path, cores: set[int], behind: Mapping[str, str]) -> Iterator[Nginx]:
    """Run nginx before model servers until the end of the block.

    Args:
        folder: For its files.
        cores: Where it runs.
        behind: The server of each model; with none, it answers `/` itself, at once.
    """
    ports = {model: free_port() for model in behind or ["itself"]}
    blocks = [
        _PROXY.format(model=model, address=behind[model], port=port) if behind else _FIXED.format(port=port)
        for model, port in ports.items()
    ]
    # nginx started by root would give its workers to a user who can't write here.
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, user=user, blocks="".join(blocks)))
    with Server(["nginx", "-c", str(config), "-p", str(folder)], cores, folder=folder) as server:
        for port in ports.values():
            _wait(server, port)
        yield Nginx(server, {model: f"127.0.0.1:{port}" for model, port in ports.items()})


def _wait(server: Server, port: int) -> None:
    limit = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if not server.runs or time.monotonic() > limit:
            raise NotStarted(f"nginx does not listen: {server.last_words()}")
        time.sleep(0.05)
