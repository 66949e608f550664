"""Single rows of doubles, whose bodies, requests and answers differ from known ones in their numbers alone.

A client writes the rows for a model always alike. Once the general way has read such a body, others get their numbers
put where its are in the request: byte for byte what the general way writes, which is tried with other numbers first.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import EnricherError
from prinz_enricher.signature import Scalar, ScalarKind, Signature

JSON: Final = "application/json"
MAX_BODY: Final = 4096
"""Bytes of a body that is read by a template."""

# With up to 15 digits before its fraction, and an exponent of two, a number means one thing as a double: the nearest,
# which is finite. A zero with a sign and without a fraction is the integer 0 to the general way.
_NUMBER: Final = re.compile(
    rb"([:,\[] ?)((?!-0[,\]}])-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,40})?(?:[eE][-+]?[0-9]{1,2})?)(?=[,\]}])"
)
_OTHERS: Final = [1 / 3 + place / 7e5 for place in range(MAX_BODY)]
"""Different numbers, all bytes of which are used."""
_MAX_TEMPLATES: Final = 1024
_MANY: Final = 8
"""Rows of a model call whose answers are worth a template."""


@dataclass(slots=True)
class Answer:
    """The body of an answer with its media type, and lines of its head."""

    body: bytes
    media: str = JSON
    headers: bytes = b""


_Write = Callable[[pb.ScoreResponse], Answer]


class _Doubles:
    """Bytes that have doubles at known places, in their order; raises ValueError where a place is not certain."""

    def __init__(self, data: bytes, values: Sequence[float]) -> None:
        form, at, self._parts = "<", 0, list[object]()
        for value in values:
            packed = struct.pack("<d", value)
            place = data.find(packed, at)
            if place < 0 or data.find(packed) != data.rfind(packed):
                raise ValueError("a double is not there once, after those before it")
            form += f"{place - at}sd"
            self._parts += [data[at:place], value]
            at = place + len(packed)
        self._parts.append(data[at:])
        self._constants = tuple(self._parts[::2])
        self._struct = struct.Struct(f"{form}{len(data) - at}s")

    def pack(self, values: Sequence[float]) -> bytes:
        """Return the bytes with other doubles."""
        parts = [*self._parts]
        parts[1::2] = values
        return self._struct.pack(*parts)

    def unpack(self, data: bytes) -> tuple[float, ...] | None:
        """Return the doubles of bytes that differ in them alone; None for others."""
        parts = self._struct.unpack(data) if len(data) == self._struct.size else ()
        return parts[1::2] if parts[::2] == self._constants else None


class RowTemplate:
    """How bodies that differ in their numbers alone are read and answered; `write` writes any answer to them."""

    def __init__(self, signature: Signature, request: _Doubles, write: _Write) -> None:
        self.signature = signature
        self.request = request
        self._write = write
        # Of the latest model call that many shared: all at once, since large responses are read by other threads.
        self._learnt: tuple[_Doubles, list[str], bytes] | None = None

    def answer(self, response: bytes) -> Answer:
        """Return the answer for a response; raises OverflowError for a value that JSON lacks."""
        scores = None
        if self._learnt is not None:
            doubles, known, headers = self._learnt
            scores = doubles.unpack(response)
            if scores is not None and all(map(math.isfinite, scores)):
                texts = [*known]
                texts[1::2] = map(repr, scores)
                return Answer("".join(texts).encode(), headers=headers)
        message = pb.ScoreResponse.FromString(response)
        answer = self._write(message)
        if scores is None and message.timing.batch_rows >= _MANY:
            values = [value for column in message.columns.columns for value in column.doubles.values]
            with contextlib.suppress(ValueError):
                learnt, others, texts = _Doubles(response, values), _OTHERS[: len(values)], list[str]()
                rest = self._write(pb.ScoreResponse.FromString(learnt.pack(others))).body.decode()
                for value, other in zip(values, others, strict=True):
                    head, _, rest = rest.partition(repr(other))
                    texts += [head, repr(value)]
                if "".join([*texts, rest]).encode() == answer.body:
                    self._learnt = learnt, [*texts, rest], answer.headers
        return answer


class RowTemplates:
    """Remembers templates by what bodies have beside their numbers. By one thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], RowTemplate] = {}

    def read(
        self, of: Sequence[object], body: bytes, signature: Signature, general: Callable[[bytes], bytes], write: _Write
    ) -> tuple[bytes, RowTemplate | None]:
        """Return the request for a body, and the template that has read it; raises what the `general` way raises.

        That knows what `of` tells apart, the signature and the body, and nothing else.
        """
        parts = _NUMBER.split(body)
        numbers = list(map(float, parts[2::3]))
        del parts[2::3]
        known = self._known.get(key := (*of, *parts))
        if known is not None and known.signature is signature:
            return known.request.pack(numbers), known
        request = general(body)
        message, others = pb.ScoreRequest.FromString(request), _OTHERS[: len(numbers)]
        known_doubles = {field.name for field in signature.inputs if field.type == Scalar(ScalarKind.DOUBLE)}
        values = [len(one.doubles.values) for one in message.columns.columns if one.name in known_doubles]
        is_row = message.columns.num_rows == 1 and not message.params
        # All numbers of the body are those of its one row.
        if is_row and 0 < sum(values) == len(message.columns.columns) == len(numbers):
            for place, other in enumerate(others):
                parts[2 * place + 1] += repr(other).encode()
            with contextlib.suppress(ValueError, EnricherError):
                learnt = _Doubles(general(b"".join(parts)), others)
                if learnt.pack(numbers) == request:
                    if len(self._known) >= _MAX_TEMPLATES:
                        self._known.clear()
                    self._known[key] = RowTemplate(signature, learnt, write)
        return request, None
