"""A server on grpc.aio with nothing of ours, to tell what of an attack's effect is that of gRPC's library.

Prints its port, and ends when its standard input does. Run as `python -m tests.hostile.bare`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.fronts.grpc.grpcio_front import MAX_PENDING
from tests.hostile.frames import SERVICE
from tests.hostile.models import MESSAGE_BYTES

_ANSWER = bytes(50)


async def score(request: bytes, context: Any) -> bytes:
    """Return an answer of the size that the models' would have."""
    try:
        asked = pb.ScoreRequest.FromString(request)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed")
    return bytes(asked.columns.columns[0].int64s.values[0]) if asked.model.name == "text" else _ANSWER


async def list_models(_: bytes, __: Any) -> bytes:
    """Return an answer at once."""
    return _ANSWER


async def watch_models(_: bytes, context: Any) -> None:
    """Send one message, and no more."""
    await context.write(_ANSWER)
    await asyncio.Event().wait()


async def score_stream(_: object, context: Any) -> None:
    """Answer each message."""
    while await context.read() is not grpc.aio.EOF:
        await context.write(_ANSWER)


async def main() -> None:
    """Serve until standard input ends."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            # By default gRPC drops calls, whosever they are, once a thousand wait.
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        ]
    )
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Score": grpc.unary_unary_rpc_method_handler(score),
        "ListModels": grpc.unary_unary_rpc_method_handler(list_models),
        "WatchModels": grpc.unary_stream_rpc_method_handler(watch_models),
        "ScoreStream": grpc.stream_stream_rpc_method_handler(score_stream),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
