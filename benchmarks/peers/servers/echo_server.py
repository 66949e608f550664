"""What gRPC alone costs in Python: `echo_server.py PORT aio|sync|native` answers any message with its own bytes."""

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


def native(port: int) -> None:
    """Serve with the native front, a batch of calls at a time."""
    from pygrpc_native import EVENT_CALL, NativeGrpcFront

    front = NativeGrpcFront(f"127.0.0.1:{port}", [(f"/{SERVICE}/{METHOD}", False)])
    front.start()
    while True:
        for kind, call, _, request, _ in front.recv_batch(256, 1000):
            if kind == EVENT_CALL:
                front.respond(call, request)


if __name__ == "__main__":
    match sys.argv[2]:
        case "sync":
            sync(int(sys.argv[1]))
        case "aio":
            asyncio.run(aio(int(sys.argv[1])))
        case _:
            native(int(sys.argv[1]))
