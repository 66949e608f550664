"""A program that reads Parquet of strangers as Arrow streams: each file in a process of its own, with little memory.

It has imported what it needs, and forks for each file that comes over the socket which is its standard input, with
three descriptors: the file behind a line of JSON, where the answer goes, and a socket that gets `+` once it is whole,
`!` where no process can be had, and nothing where the file can't be read. The answer is a line of JSON with the names
of the columns that were left out, or null where names are at other places than they should be, and the stream.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Times the bytes of a stream that reading one may take, and how many besides.
_MEMORY, _FREE = 4, 32 * 1024 * 1024


def main() -> None:
    """Serve until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=0) as files:
        while True:
            message, descriptors, _, _ = socket.recv_fds(files, 1, 3)
            if not message:
                return
            try:
                child = os.fork()
            except OSError:
                os.write(descriptors[2], b"!")
                child = -1
            if not child:
                files.close()
                # Whatever happens: without its byte the file counts as one that can't be read.
                try:
                    _read(*descriptors)
                finally:
                    os._exit(1)
            for descriptor in descriptors:
                os.close(descriptor)


def _read(source: int, target: int, done: int) -> None:
    os.lseek(source, 0, os.SEEK_SET)
    with os.fdopen(source, "rb") as content:
        asked: dict[str, Any] = json.loads(content.readline())
        body = content.read()
    _limit(asked["max_bytes"], asked["seconds"])
    file = pq.ParquetFile(pa.BufferReader(body), pre_buffer=False)
    schema = file.schema_arrow
    # What pandas takes as an index is not a column of the frame that a model gets; a range has no name.
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    names, wanted = [name for name in schema.names if name not in index], asked["names"]
    by_place = asked["by_place"] and len(names) == len(wanted)
    known = set(names if by_place or not wanted else wanted)
    kept = [name for name in names if name in known]
    # A name selects those that begin with it and a dot too.
    table = file.read(columns=kept, use_threads=False).select(kept)
    if by_place:
        table = table.rename_columns(wanted)
    is_clear = not by_place or names == wanted or set(names).isdisjoint(wanted)
    with os.fdopen(target, "wb") as answer:
        answer.write(json.dumps([name for name in names if name not in known] if is_clear else None).encode() + b"\n")
        with pa.ipc.new_stream(answer, table.schema) as stream:
            stream.write_table(table)
    os.write(done, b"+")
    os._exit(0)


def _limit(max_bytes: int, seconds: float) -> None:
    """Bound what this process may take from here on."""
    # Pages of the whole program, as https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html has them.
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    for limit, most in (
        (resource.RLIMIT_AS, now + _FREE + _MEMORY * max_bytes),
        (resource.RLIMIT_FSIZE, 2 * max_bytes),
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
