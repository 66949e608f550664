"""gRPC's interoperability test service on the Rust server alone, as grpc/test/interop-descriptions.md has it."""

from __future__ import annotations

import base64
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from prinz_enricher.config import ConnectionSettings
from prinz_enricher.fronts.grpc.admission import FrontLimits
from prinz_enricher.fronts.listener import listen
from prinz_enricher.service.calls import FrontError

if TYPE_CHECKING:
    from prinz_enricher.security.certificates import Certificates

_INITIAL, _TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
_METHODS = {"EmptyCall": 0, "UnaryCall": 1, "StreamingOutputCall": 1, "StreamingInputCall": 2, "FullDuplexCall": 2}
_INT32, _BYTES, _TEXT, _MESSAGE = 5, 12, 9, 11
_TYPES: dict[str, list[tuple[str, int, int, str]]] = {
    "Payload": [("body", 2, _BYTES, "")],
    "EchoStatus": [("code", 1, _INT32, ""), ("message", 2, _TEXT, "")],
    "Parameters": [("size", 1, _INT32, "")],
    "Request": [
        ("response_parameters", 20, _MESSAGE, "Parameters"),
        ("response_size", 2, _INT32, ""),
        ("payload", 3, _MESSAGE, "Payload"),
        ("response_status", 7, _MESSAGE, "EchoStatus"),
    ],
    "OutputRequest": [
        ("response_parameters", 2, _MESSAGE, "Parameters"),
        ("payload", 3, _MESSAGE, "Payload"),
        ("response_status", 7, _MESSAGE, "EchoStatus"),
    ],
    "InputRequest": [("payload", 1, _MESSAGE, "Payload")],
    "InputResponse": [("aggregated_payload_size", 1, _INT32, "")],
    "Response": [("payload", 1, _MESSAGE, "Payload")],
}


def _make_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="interop", syntax="proto3")
    for name, fields in _TYPES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            is_list = field == "response_parameters"
            made = message.field.add(name=field, number=number, label=3 if is_list else 1)
            made.type = kind  # type: ignore[assignment]  # the number of its enum
            if type_name:
                made.type_name = f".interop.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"interop.{name}")) for name in _TYPES}


class _Service:
    """Answers calls, in one thread for those that come in batches and one for events."""

    def __init__(self, certificates: Certificates | None) -> None:
        from prinz_enricher_front import Server

        from prinz_enricher.fronts.grpc.rust_front import limits_for_rust

        self.types = _make_types()
        names = list(_METHODS)
        self.server = Server(
            [(f"/grpc.testing.TestService/{name}", _METHODS[name]) for name in names],
            (_INITIAL, _TRAILING),
            limits_for_rust(FrontLimits(4 << 20, 1_000, 1 << 30, connection=ConnectionSettings())),
            1_000,
        )
        self.names = names
        self.open: dict[int, tuple[str, dict[str, bytes], list[int]]] = {}
        one = listen("127.0.0.1", 0, "gRPC", FrontError)
        self.port: int = one.getsockname()[1]
        chain, key = (certificates.chain, certificates.key) if certificates else (None, None)
        self.server.start([one.detach()], chain=chain, key=key)

    def serve_batches(self) -> None:
        while (batch := self.server.recv_batch(100)) is not None:
            for arrival in batch[0]:
                self.server.respond([arrival[0]], [b""])

    def serve_events(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.server.events_fd, selectors.EVENT_READ)
            while True:
                selector.select()
                events = self.server.events()
                if events is None:
                    return
                for what, number, given in events:
                    self._note(what, number, given)

    def _note(self, what: str, number: int, given: Any) -> None:
        if what == "open":
            name, metadata = self.names[given[1]], dict(given[6])
            self.open[number] = name, metadata, [0]
            if _INITIAL in metadata:
                self.server.send_headers(number, [(_INITIAL, metadata[_INITIAL].encode())])
            if given[2] is not None:
                self._answer(number, name, given[2])
                self._finish(number)
        elif what == "message" and number in self.open:
            name, _, total = self.open[number]
            self.server.consume(number, 1)
            if name == "StreamingInputCall":
                total[0] += len(self.types["InputRequest"].FromString(given).payload.body)
            else:
                self._answer(number, name, given)
        elif what == "end" and number in self.open:
            name, _, total = self.open[number]
            if name == "StreamingInputCall":
                answer = self.types["InputResponse"](aggregated_payload_size=total[0])
                self.server.send(number, answer.SerializeToString())
            self._finish(number)
        elif what == "gone":
            self.open.pop(number, None)

    def _answer(self, number: int, name: str, message: bytes) -> None:
        """Answer a message, or end the call where it asks for that."""
        request = self.types["Request" if name == "UnaryCall" else "OutputRequest"].FromString(message)
        if request.response_status.code:
            self._finish(number, request.response_status.code, request.response_status.message)
            return
        sizes = [request.response_size] if name == "UnaryCall" else [one.size for one in request.response_parameters]
        for size in sizes:
            self.server.send(number, self.types["Response"](payload={"body": bytes(size)}).SerializeToString())

    def _finish(self, number: int, code: int = 0, text: str = "") -> None:
        if number not in self.open:
            return
        metadata = self.open.pop(number)[1]
        trailing = [(_TRAILING, base64.b64decode(str(metadata[_TRAILING]) + "=="))] if _TRAILING in metadata else []
        self.server.finish(number, code, text, trailing)


@contextmanager
def interop_server(certificates: Certificates | None = None) -> Iterator[int]:
    """Run the service, with TLS by certificates; yields its port."""
    service = _Service(certificates)
    threads = [threading.Thread(target=one) for one in (service.serve_batches, service.serve_events)]
    for thread in threads:
        thread.start()
    try:
        yield service.port
    finally:
        service.server.stop(0.1)
        for thread in threads:
            thread.join()
