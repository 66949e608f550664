"""`python -m prinz_enricher.worker --fd N`: one worker, which exchanges frames over an inherited socket."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import socket
import sys

from .startup import die_with_parent, prepare_imports


def main() -> int:
    """Run the worker; return the exit code."""
    parser = argparse.ArgumentParser(prog="prinz_enricher.worker", description="Runs one model for a front.")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the front")
    parser.add_argument("--parent", type=int, required=True, help="the front's process id")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    prepare_imports()
    from prinz_enricher.ipc.frames import FrameSocket

    from .serving import serve

    # What models print goes where logs go; the socket, which carries frames alone, has a descriptor of its own.
    os.dup2(2, 1)
    faulthandler.enable()
    sock = socket.socket(fileno=arguments.fd)
    sock.set_inheritable(False)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        return serve(FrameSocket(sock))
    return 0


if __name__ == "__main__":
    code = main()
    # The model may have started threads that never end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
