"""Server reflection, v1 and v1alpha: what lets grpcurl and other tools call the service without its .proto files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from prinz_enricher.fronts.grpc.counted_handlers import CountingServer

SERVICE = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: CountingServer, services: Iterable[str]) -> None:
    """Serve reflection of the named services, and of itself."""
    names = [*services, reflection.SERVICE_NAME, SERVICE]
    _describe_v1(descriptor_pool.Default())
    pool: Any = _PoolWithMethods(descriptor_pool.Default())
    # grpcio-reflection has v1alpha only. v1 is the same messages under another package name, so the same servicer
    # and the same serialisers answer it.
    servicer = ReflectionServicer(service_names=names, pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, handlers) for name in (reflection.SERVICE_NAME, SERVICE)]
    )


class _PoolWithMethods:
    """A pool that finds the file of a method too, as reflection.proto wants and ghz asks; protobuf's own does not."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> descriptor.FileDescriptor:  # noqa: N802 - protobuf's name
        """Find the file that declares a symbol; KeyError where there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def _describe_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Add grpc/reflection/v1/reflection.proto to the pool, made from its v1alpha twin."""
    name = "grpc/reflection/v1/reflection.proto"
    try:
        pool.FindFileByName(name)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
        text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
        file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        pool.AddSerializedFile(file.SerializeToString())
