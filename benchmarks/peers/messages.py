"""Message types of the peers' contracts, made when they are needed from protos/."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTOS = Path(__file__).parent / "protos"


def message(name: str) -> Any:
    """Return a message class by its full name, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    from grpc_tools import protoc

    pool = descriptor_pool.DescriptorPool()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "descriptors.pb"
        protos = sorted(path.name for path in PROTOS.glob("*.proto"))
        if protoc.main(["protoc", f"--proto_path={PROTOS}", f"--descriptor_set_out={made}", *protos]):
            raise RuntimeError(f"{PROTOS} can't be compiled")
        for file in descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file:
            pool.Add(file)
    return pool
