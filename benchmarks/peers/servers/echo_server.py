"""What gRPC alone costs in Python: `echo_server.py PORT aio|sync` answers any message with its own bytes."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE, METHOD = "peers.Echo", "Score"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def sync(port: int) -> None:
    """Serve with grpcio's threads."""
    server = grpc.server(ThreadPoolExecutor(8), options=_OPTIONS)
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def aio(port: int) -> None:
    """Serve in grpcio's event loop."""

    async def echo(request: bytes, _: object) -> bytes:
        return request

    server = grpc.aio.server(options=_OPTIONS)
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[2] == "sync":
        sync(int(sys.argv[1]))
    else:
        asyncio.run(aio(int(sys.argv[1])))
