"""A server on loopback that speaks HTTP/2 over TLS."""

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events

_FRAME = 16384


class Http2Server:
    """Answers each request with its body, but those to `/frozen` not at all.

    Attributes:
        streams: How many requests came on each connection, by its number.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["h2"])
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self.streams: list[int] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), self._tls.wrap_socket(accepted, server_side=True) as connection:
            state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            state.initiate_connection()
            connection.sendall(state.data_to_send())
            number = len(self.streams)
            self.streams.append(0)
            bodies: dict[int, bytes] = {}
            frozen = set()
            while content := connection.recv(65536):
                for event in state.receive_data(content):
                    if isinstance(event, h2.events.RequestReceived):
                        self.streams[number] += 1
                        bodies[event.stream_id] = b""
                        if dict(event.headers or ())[b":path"] == b"/frozen":
                            frozen.add(event.stream_id)
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] += event.data or b""
                        state.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded) and event.stream_id not in frozen:
                        state.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/json")])
                        body = bodies.pop(event.stream_id)
                        for start in range(0, len(body), _FRAME):
                            state.send_data(event.stream_id, body[start : start + _FRAME])
                        state.end_stream(event.stream_id)
                connection.sendall(state.data_to_send())
