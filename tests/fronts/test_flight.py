"""Arrow Flight, by pyarrow's own client, on both gRPC fronts: batches in, scores out."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prinz_enricher.batch import arrow_messages
from prinz_enricher.batch.wire import prefix
from prinz_enricher.config import AuthSettings, QuotaSettings, TlsSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.fronts.grpc import Callers, FrontLimits, FrontSecurity
from prinz_enricher.fronts.grpc.counted_handlers import FLIGHT
from prinz_enricher.scoring.ports import Target
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.accounting import Accounting
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, output_schema
from prinz_enricher.telemetry.series import Series
from tests.support.certificates import Authority
from tests.support.deadline import wait_until
from tests.support.front_core import FRONTS, KINDS, OPTIONS, WAIT, make_front, refusal
from tests.support.guarded_service import GuardedService, halve, model_of, rule

MIB = 1 << 20
FIELDS = tuple(
    Field(name, Scalar(kind), required=kind is not ScalarKind.STRING)
    for name, kind in (("x", ScalarKind.DOUBLE), ("n", ScalarKind.LONG), ("s", ScalarKind.STRING))
)
SAME = Signature(FIELDS, FIELDS)
SCHEMA = pa.schema([pa.field("x", pa.float64()), pa.field("n", pa.int64()), pa.field("s", pa.utf8())])


class FlightService(GuardedService):
    """A service whose model `same` answers with its rows, and `touchy` not to a 13."""

    def __init__(self, *, rules: Sequence[Any] = (), quotas: Quotas | None = None) -> None:
        self.scored: list[tuple[str, int]] = []
        super().__init__("halves", "touchy", rules=rules, quotas=quotas)
        same = model_of("same")
        self.catalog.change(replace(same, versions=(replace(same.versions[0], signature=SAME),)))

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: object) -> pa.RecordBatch:
            self.scored.append((target.version, batch.num_rows))
            if target.name == "touchy" and 13.0 in batch.column(0).to_pylist():
                raise ValueError("98765432.25")
            if target.name == "same":
                return pa.RecordBatch.from_arrays(batch.columns, schema=output_schema(SAME))
            return halve(batch, params)

        return score


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of front."""
    return str(request.param)


@contextmanager
def served(
    kind: str, service: FlightService, *, security: FrontSecurity | None = None, log: Any = None, **more: Any
) -> Iterator[int]:
    """Serve a service by a front; gives its port."""
    limits: dict[str, Any] = {"message_bytes": MIB, "inflight_bytes": 16 * MIB, "calls": 1_000, **more}
    front = make_front(kind, security=security, flight=True, **limits)
    port = front.start(service.service.handle, service.service.open_source, log)
    try:
        yield port
    finally:
        front.drain(1.0)


@pytest.fixture
def service() -> Iterator[FlightService]:
    """A service."""
    with FlightService() as service:
        yield service


@pytest.fixture
def client(kind: str, service: FlightService) -> Iterator[fl.FlightClient]:
    """A client of a front that listens."""
    with served(kind, service) as port, fl.connect(f"grpc://127.0.0.1:{port}") as client:
        yield client


class Exchange:
    """An exchange with a model; `answers` are collected by a thread of their own where it is asked for."""

    def __init__(self, client: fl.FlightClient, model: str = "halves", caller: str = "", **command: Any) -> None:
        command = {"model": {"name": model}, **command}
        descriptor = fl.FlightDescriptor.for_command(json.dumps(command).encode())
        headers = [(b"authorization", f"Bearer token-of-{caller}".encode())] if caller else []
        self.writer, self.reader = client.do_exchange(descriptor, fl.FlightCallOptions(timeout=WAIT, headers=headers))

    def score(self, table: pa.Table, rows: int | None = None) -> pa.Table:
        """Send a table in batches of so many rows, and return all scores."""
        failures: list[BaseException] = []

        def send() -> None:
            try:
                self.writer.begin(table.schema)
                self.writer.write_table(table, rows)
                self.writer.done_writing()
            except BaseException as error:  # noqa: BLE001 - the reader says why
                failures.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return self.reader.read_all()
        finally:
            sender.join(WAIT)

    def error(self, table: pa.Table, rows: int | None = None) -> str:
        """Expect that it ends with an error, and return its text."""
        with pytest.raises((pa.ArrowException, fl.FlightError, KeyError)) as raised:
            self.score(table, rows)
        return str(raised.value)


def doubles(*values: float) -> pa.Table:
    """Return a column of doubles."""
    return pa.table({"x": pa.array(values, pa.float64())})


def test_scores_in_the_order_of_the_rows(client: fl.FlightClient, service: FlightService) -> None:
    """Each batch is answered by one of as many rows, behind those before it, and the schema names the version."""
    table = doubles(*range(5_000))
    exchange = Exchange(client)
    answer = exchange.score(table, 37)
    assert answer.column("y").to_pylist() == [value / 2 for value in range(5_000)]
    assert [batch.num_rows for batch in answer.to_batches()][:2] == [37, 37]
    assert exchange.reader.schema.metadata == {b"prinz.model": b"halves", b"prinz.version": b"1"}
    assert sum(rows for _, rows in service.scored) == 5_000


def test_a_caller_that_waits_for_each_answer(client: fl.FlightClient) -> None:
    """A batch is answered without the next one, or the end, of which nothing is known."""
    exchange = Exchange(client)
    exchange.writer.begin(doubles().schema)
    for value in range(50):
        exchange.writer.write_table(doubles(value))
        assert exchange.reader.read_chunk().data.column("y").to_pylist() == [value / 2]
    exchange.writer.done_writing()
    with pytest.raises(StopIteration):
        exchange.reader.read_chunk()


def test_no_rows(client: fl.FlightClient) -> None:
    """An exchange without batches has the schema of the scores, and a batch without rows is answered by one."""
    for batches in ([], [pa.record_batch({"x": pa.array([], pa.float64())})]):
        exchange = Exchange(client)
        exchange.writer.begin(doubles().schema)
        for batch in batches:
            exchange.writer.write_batch(batch)
        exchange.writer.done_writing()
        answer = exchange.reader.read_all()
        assert (answer.num_rows, answer.schema.names) == (0, ["y"])


TEXTS = st.none() | st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
ROWS = st.lists(st.tuples(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1), TEXTS), max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[fl.FlightClient]:
    """A client that many examples share."""
    with (
        FlightService() as service,
        served(str(request.param), service) as port,
        fl.connect(f"grpc://127.0.0.1:{port}") as client,
    ):
        yield client


@given(rows=ROWS, size=st.integers(1, 41), dictionary=st.booleans(), codec=st.sampled_from([None, "lz4", "zstd"]))
@settings(max_examples=60, deadline=None)
def test_values_arrive_to_the_bit(
    shared: fl.FlightClient, rows: list[tuple[Any, ...]], size: int, dictionary: bool, codec: str | None
) -> None:
    """Whatever they are, in batches of any size, dictionaries that change between them, or compressed."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    parts = [table.slice(at, size) for at in range(0, table.num_rows, size)] or [table]
    if dictionary:
        parts = [part.set_column(2, "s", part.column("s").combine_chunks().dictionary_encode()) for part in parts]
    exchange = Exchange(shared, "same")
    exchange.writer.begin(parts[0].schema, pa.ipc.IpcWriteOptions(compression=codec))
    answers = []
    for part in parts:
        for batch in part.to_batches() or [pa.record_batch([pa.array([], f.type) for f in part.schema], part.schema)]:
            exchange.writer.write_batch(batch)
            answers.append(exchange.reader.read_chunk().data)
    exchange.writer.done_writing()
    answer = pa.Table.from_batches(answers)
    for name, values in zip(SCHEMA.names, columns, strict=True):
        found = answer.column(name).to_pylist()
        # 0.0 and -0.0 are not the same.
        assert list(map(repr, found)) == list(map(repr, values))


def test_one_version_for_all(client: fl.FlightClient, service: FlightService) -> None:
    """An alias that moves between two batches moves no row of an exchange that has begun."""
    exchange = Exchange(client)
    exchange.writer.begin(doubles().schema)
    exchange.writer.write_table(doubles(1.0))
    exchange.reader.read_chunk()
    model = model_of("halves")
    second = replace(model.versions[0], version="2", aliases=("champion",))
    first = replace(model.versions[0], aliases=())
    service.catalog.change(replace(model, aliases={"champion": "2"}, versions=(second, first), fingerprint=b"moved"))

    def version_of_another() -> bytes:
        found: bytes = Exchange(client).score(doubles(5.0)).schema.metadata[b"prinz.version"]
        return found

    # The former one answers until the new one is loaded.
    wait_until(lambda: version_of_another() == b"2", WAIT)
    service.scored.clear()
    exchange.writer.write_table(doubles(3.0))
    exchange.reader.read_chunk()
    assert service.scored == [("1", 1)]


def test_params_and_outputs(client: fl.FlightClient) -> None:
    """The command takes all of a ScoreRequest but its rows."""
    table = pa.table({"x": [1.5], "n": [2], "s": ["a"]}, SCHEMA)
    assert Exchange(client, "same", outputs=["s", "x"]).score(table).to_pylist() == [{"s": "a", "x": 1.5}]
    assert "outputs[0]: is not an output" in Exchange(client, "same", outputs=["z"]).error(table)
    assert "signature" in Exchange(client, "same", signatureDigest="0" * 64).error(table)


def test_a_batch_that_fails_ends_the_exchange(client: fl.FlightClient) -> None:
    """Those before it are answered; the error says which batch it is, and where its rows begin."""
    exchange = Exchange(client, "touchy")
    exchange.writer.begin(doubles().schema)
    for value in (1.0, 2.0, 13.0):
        exchange.writer.write_table(doubles(value, value))
    found = [exchange.reader.read_chunk().data.num_rows for _ in range(2)]
    with pytest.raises(pa.ArrowException, match="Batch 2, whose first row is row 4: ") as raised:
        exchange.reader.read_chunk()
    assert found == [2, 2]
    assert "98765432" not in str(raised.value)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ({"model": {"name": "nobody"}}, 'There is no model "nobody"'),
        ({"model": "halves"}, "not a ScoreRequest in JSON"),
        ({"rows": []}, "not a ScoreRequest in JSON"),
        ({"model": {"name": "halves"}, "columns": {}}, "has a command with rows"),
        ({"model": {"name": "halves"}, "requestId": "x" * (1 << 17)}, "of more than 65536 bytes"),
        ({"model": {"name": "halves"}, "requestId": "x" * 300}, "is longer than 256 characters"),
    ],
)
def test_commands_that_can_not_be_served(client: fl.FlightClient, command: dict[str, Any], text: str) -> None:
    """They are refused with what is wrong."""
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(json.dumps(command).encode()))
    # What is wrong is known before all is sent.
    with contextlib.suppress(pa.ArrowException, KeyError):
        writer.begin(doubles().schema)
        writer.write_table(doubles(1.0))
    with pytest.raises((pa.ArrowException, KeyError), match=text):
        reader.read_chunk()


def test_rows_that_do_not_fit(client: fl.FlightClient) -> None:
    """A column that is missing, unknown, of another type, or has a null where none may be: the columns are named."""
    assert 'columns["z"]' in Exchange(client).error(pa.table({"z": [1.0]}))
    assert "is text; wanted double" in Exchange(client).error(pa.table({"x": ["a"]}))
    assert "10001 rows" in Exchange(client).error(pa.table({"x": pa.array([0.5] * 10_001)}))


def flight_data(descriptor: bytes = b"", header: bytes = b"", body: bytes = b"") -> bytes:
    """Return a serialised FlightData."""
    fields = ((1, descriptor), (2, header), (1000, body))
    return b"".join(prefix(number, len(value)) + value for number, value in fields if value)


def command(model: str = "halves") -> bytes:
    """Return a serialised FlightDescriptor."""
    text = json.dumps({"model": {"name": model}}).encode()
    return b"\x08\x02" + prefix(2, len(text)) + text


def messages(table: pa.Table, descriptor: bytes) -> list[bytes]:
    """Return what a client sends for a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: list[bytes] = []
    for message in pa.ipc.MessageReader.open_stream(sink.getvalue()):
        body = b"" if message.body is None else message.body.to_pybytes()
        found.append(flight_data(b"" if found else descriptor, message.metadata.to_pybytes(), body))
    return found


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ([], "is not an Arrow schema, which comes first"),
        ([flight_data(command())], "is not an Arrow schema, which comes first"),
        (messages(doubles(1.0), b""), "has no command"),
        ([messages(doubles(1.0), command())[0]] * 2, "is neither the one schema"),
        ([flight_data(command(), b"\x01\x00\x00")], "not a FlightData message"),
        ([b"\xff\xff"], "not a FlightData message"),
        ([flight_data(command(), b"\xff\xff\xff\x7f")], "not a FlightData message"),
    ],
)
def test_messages_out_of_order(kind: str, service: FlightService, sent: list[bytes], text: str) -> None:
    """What is not as Flight has it ends the exchange with INVALID_REQUEST."""
    with served(kind, service) as port, grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        exchange: Any = channel.stream_stream(FLIGHT)
        code, reason, found = refusal(lambda: list(exchange(iter(sent), timeout=WAIT)))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert text in found


def test_damaged_messages(kind: str, service: FlightService) -> None:
    """Whatever bytes are changed, each exchange ends with an answer or an error of the caller, and others go on."""
    table = pa.table({"x": pa.array([1.0, 2.0]), "n": pa.array([3, 4]), "s": pa.array(["a", "b"]).dictionary_encode()})
    whole = messages(table, command("same"))
    chance = random.Random(24)  # noqa: S311 - no secret
    with served(kind, service) as port, grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        exchange: Any = channel.stream_stream(FLIGHT)
        codes = []
        for _ in range(400):
            sent = [bytearray(one) for one in whole]
            for _ in range(chance.randint(1, 4)):
                damaged = chance.choice(sent)
                damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            try:
                list(exchange(iter(map(bytes, sent)), timeout=WAIT))
                codes.append(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                codes.append(error.code())
        assert {*codes} <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert len({*codes}) > 1
        assert len(list(exchange(iter(whole), timeout=WAIT))) == 2


def test_dictionaries_are_bounded(kind: str, service: FlightService) -> None:
    """What is kept for later batches is at most as large as a message, however many dictionaries add to it."""
    table = pa.table({"x": [1.0], "n": [1], "s": pa.array(["a" * 100_000]).dictionary_encode()})
    schema, dictionary, _ = messages(table, command("same"))
    with served(kind, service) as port, grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        exchange: Any = channel.stream_stream(FLIGHT)
        header = next(one for one in pa.ipc.MessageReader.open_stream(stream_of(table)) if one.type == "dictionary")
        assert arrow_messages.dictionary_of(memoryview(header.metadata)) == (0, False)
        # Those that replace each other need not be kept.
        assert len(list(exchange(iter([schema, *[dictionary] * 30, messages(table, b"")[2]]), timeout=WAIT))) == 2
        with pytest.raises(grpc.RpcError, match="schema and dictionaries larger than 1048576 bytes"):
            list(exchange(iter([schema, *[addition()] * 30]), timeout=WAIT))


def stream_of(table: pa.Table) -> pa.Buffer:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def addition() -> bytes:
    """Return the message of a dictionary that adds to what came before, as pyarrow writes it."""
    sink = pa.BufferOutputStream()
    first, second = (pa.array(texts).dictionary_encode() for texts in (["a"], ["a", "b" * 100_000]))
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, pa.schema([("s", first.type)]), options=options) as writer:
        for array in (first, second):
            writer.write_batch(pa.record_batch({"s": array}))
    delta = [one for one in pa.ipc.MessageReader.open_stream(sink.getvalue()) if one.type == "dictionary"][1]
    assert arrow_messages.dictionary_of(memoryview(delta.metadata)) == (0, True)
    return flight_data(b"", delta.metadata.to_pybytes(), delta.body.to_pybytes())


def test_a_caller_that_does_not_read(kind: str, service: FlightService) -> None:
    """Its batches are not read without end, and those of others are scored meanwhile."""
    with served(kind, service, patience=WAIT) as port:
        address = f"grpc://127.0.0.1:{port}"
        with fl.connect(address) as stubborn, fl.connect(address) as other:
            exchange = Exchange(stubborn, "same")
            batch = pa.record_batch([pa.array([0.5] * 100), pa.array([1] * 100), pa.array(["a" * 1_000] * 100)], SCHEMA)
            exchange.writer.begin(SCHEMA)
            sent = []

            def send() -> None:
                for number in range(2_000):
                    exchange.writer.write_batch(batch)
                    sent.append(number)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            wait_until(lambda: len(service.scored) >= 2, WAIT)
            assert Exchange(other).score(doubles(3.0)).column("y").to_pylist() == [1.5]
            wait_until(lambda: 5 < len(sent) < 500, WAIT)
            assert sum(rows for _, rows in service.scored) < 500 * 100
            # Once it reads, all of them are answered.
            for _ in range(2_000):
                exchange.reader.read_chunk()
            sender.join(WAIT)
            assert len(sent) == 2_000


def test_no_flight_unless_it_is_asked_for(kind: str, service: FlightService) -> None:
    """Without the setting there is no such method."""
    front = make_front(kind)
    port = front.start(service.service.handle, service.service.open_source)
    try:
        with fl.connect(f"grpc://127.0.0.1:{port}") as client, pytest.raises(NotImplementedError):
            Exchange(client).score(doubles(1.0))
    finally:
        front.drain(1.0)


def test_tokens_rules_quotas_and_the_log(kind: str, tmp_path: Path) -> None:
    """They are those of Score: who calls, which models, how many rows; and each batch is noted as a call."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "nk"\nsha256 = "{sha256(b"token-of-nk").hexdigest()}"\n')
    authenticator = Authenticator(AuthSettings(tokens_file=str(tokens)))
    callers = Callers(authenticator, tokens=True, certificates=False)
    quotas = Quotas(QuotaSettings(rows_per_second=3))
    rules = (rule("nk", "halves"), rule("nk", "same", "list"))
    with FlightService(rules=rules, quotas=quotas) as service:
        security = FrontSecurity(callers, rules=service.targets.rules)
        with (
            served(kind, service, security=security, log=Accounting(quotas, None)) as port,
            fl.connect(f"grpc://127.0.0.1:{port}") as client,
        ):
            assert Exchange(client, caller="nk").score(doubles(1.0)).num_rows == 1
            with pytest.raises(fl.FlightUnauthenticatedError):
                Exchange(client).score(doubles(1.0))
            with pytest.raises(fl.FlightUnauthenticatedError):
                Exchange(client, caller="another").score(doubles(1.0))
            with pytest.raises(fl.FlightUnauthorizedError, match="same"):
                Exchange(client, "same", caller="nk").score(doubles(1.0))
            assert "nk" in Exchange(client, caller="nk").error(doubles(1.0, 2.0, 3.0, 4.0))
    callers.close()
    authenticator.close()


def test_tls(kind: str, service: FlightService, tmp_path: Path) -> None:
    """It has the certificate of the front."""
    authority = Authority(tmp_path)
    pair = authority.server()
    files = CertificateFiles(TlsSettings(certificate=str(pair.certificate), key=str(pair.key)))
    with (
        served(kind, service, security=FrontSecurity(certificates=files)) as port,
        fl.connect(f"grpc+tls://localhost:{port}", tls_root_certs=authority.file.read_text()) as client,
    ):
        assert Exchange(client).score(doubles(3.0)).column("y").to_pylist() == [1.5]


def test_exchanges_are_counted(kind: str, service: FlightService) -> None:
    """An exchange is a call of DoExchange, and its batches are calls of the model."""
    series = Series()
    front = make_front(kind, series=series, flight=True)
    port = front.start(service.service.handle, service.service.open_source)
    try:
        with fl.connect(f"grpc://127.0.0.1:{port}") as client:
            Exchange(client).score(doubles(*range(10)), 5)
        method = series.methods[FLIGHT]
        wait_until(lambda: method.handled[0] == 1, WAIT)
    finally:
        front.drain(1.0)


def test_the_second_port(kind: str, service: FlightService) -> None:
    """A port of its own serves what that of gRPC serves."""
    limits = FrontLimits(MIB, 100, 16 * MIB, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        ports: list[int] = []
        patch.setattr(f"prinz_enricher.fronts.grpc.{kind}_front.note_flight", ports.append)
        front = FRONTS[kind]("127.0.0.1:0", limits, flight="localhost:0")
        port = front.start(service.service.handle, service.service.open_source)
    try:
        assert ports != [port]
        for one in (port, *ports):
            with fl.connect(f"grpc://localhost:{one}") as client:
                assert Exchange(client).score(doubles(3.0)).column("y").to_pylist() == [1.5]
            with grpc.insecure_channel(f"127.0.0.1:{one}", options=OPTIONS) as channel:
                request = pb.ScoreRequest(model={"name": "halves"}).SerializeToString()
                score: Any = channel.unary_unary("/prinz.enricher.v1.EnricherService/Score")
                assert refusal(lambda: score(request, timeout=WAIT))[1] == "INVALID_REQUEST"  # noqa: B023 - called here
    finally:
        front.drain(1.0)
