"""The check of MLflow's webhooks, held to MLflow's own signing."""

import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.webhooks.constants import WEBHOOK_DELIVERY_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER
from mlflow.webhooks.delivery import _generate_hmac_signature
from pydantic import SecretStr

from prinz_enricher.config import HttpSettings
from prinz_enricher.fronts.admin.webhook import WINDOW_SECONDS, Delivery, Verdict, Webhook, is_authentic

NOW = 1_790_000_000
SECRET = "a secret of äöü"  # noqa: S105 - of these tests


def signed(body: bytes = b"{}", *, delivery_id: str = "id-1", timestamp: int = NOW, secret: str = SECRET) -> Delivery:
    """Return a delivery as MLflow would send it."""
    signature = _generate_hmac_signature(secret, delivery_id, str(timestamp), body.decode())
    return Delivery(delivery_id, str(timestamp), signature, body)


def webhook(**bounds: int) -> Webhook:
    """Return one with the secret of these tests, that has received nothing."""
    return Webhook(HttpSettings(port=0, webhook_secret=SecretStr(SECRET)), lambda: None, **bounds)


def test_names_of_the_headers() -> None:
    """The headers that the door reads are the ones that MLflow writes."""
    assert (WEBHOOK_DELIVERY_ID_HEADER, WEBHOOK_TIMESTAMP_HEADER, WEBHOOK_SIGNATURE_HEADER) == (
        "X-MLflow-Delivery-Id",
        "X-MLflow-Timestamp",
        "X-MLflow-Signature",
    )


@given(st.text(), st.text(min_size=1), st.uuids(), st.integers(-WINDOW_SECONDS, WINDOW_SECONDS))
def test_what_mlflow_signs_is_authentic(body: str, secret: str, delivery_id: object, late: int) -> None:
    """Any body, signed by MLflow with any secret, is genuine within the window, and with no other secret."""
    delivery = signed(body.encode(), delivery_id=str(delivery_id), timestamp=NOW - late, secret=secret)

    assert is_authentic(delivery, ["another", secret], NOW)
    assert not is_authentic(delivery, [secret + "x"], NOW)
    assert not is_authentic(delivery, [], NOW)


@given(st.binary(), st.binary(), st.binary(), st.binary())
def test_random_bytes_are_refused(delivery_id: bytes, timestamp: bytes, signature: bytes, body: bytes) -> None:
    """Headers and bodies of random bytes are refused, and raise nothing."""
    delivery = Delivery(delivery_id.decode("latin-1"), timestamp.decode("latin-1"), signature.decode("latin-1"), body)

    assert not is_authentic(delivery, [SECRET], NOW)
    assert not is_authentic(replace(delivery, timestamp=str(NOW)), [SECRET], NOW)
    assert not is_authentic(replace(delivery, delivery_id="id-1", timestamp=str(NOW)), [SECRET], NOW)


@given(st.text(min_size=1), st.data())
def test_one_changed_byte_is_refused(body: str, data: st.DataObject) -> None:
    """A genuine delivery with one byte changed, anywhere, is refused."""
    delivery = signed(body.encode())
    part = data.draw(st.sampled_from(["delivery_id", "timestamp", "signature", "body"]))
    value = getattr(delivery, part)
    raw = bytearray(value if isinstance(value, bytes) else value.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    changed: Any = bytes(raw) if isinstance(value, bytes) else raw.decode("latin-1")

    assert not is_authentic(replace(delivery, **{part: changed}), [SECRET], NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"delivery_id": ""},
        {"delivery_id": "x" * 129},
        {"timestamp": ""},
        {"timestamp": f"+{NOW}"},
        {"timestamp": f"{NOW}.0"},
        {"timestamp": "nan"},
        {"signature": ""},
        {"signature": "v1,"},
    ],
)
def test_forms_that_mlflow_does_not_write(changes: dict[str, Any]) -> None:
    """A header that is missing or of another form is refused, even where it is what was signed."""
    delivery = replace(signed(), **changes)
    if "signature" not in changes:
        signature = _generate_hmac_signature(SECRET, delivery.delivery_id, delivery.timestamp, "{}")
        delivery = replace(delivery, signature=signature)

    assert not is_authentic(delivery, [SECRET], NOW)


def test_signed_text_is_split_in_one_way_only() -> None:
    """What was signed can't be told as another id, time and body."""
    delivery = signed(f"{NOW}.{{}}".encode(), delivery_id="a")
    shifted = replace(delivery, delivery_id=f"a.{NOW}", body=b"{}")

    assert is_authentic(delivery, [SECRET], NOW)
    assert not is_authentic(shifted, [SECRET], NOW)


@pytest.mark.parametrize(("late", "genuine"), [(300, True), (301, False), (-300, True), (-301, False)])
def test_window(late: int, genuine: bool) -> None:
    """A delivery is genuine up to five minutes after and before its time, and no longer."""
    assert is_authentic(signed(), [SECRET], NOW + late) is genuine


def test_replay() -> None:
    """A delivery is accepted once; again it is a replay, even after a clock was set back; later it is refused."""
    receiver = webhook()

    assert receiver.check(signed(), NOW) is Verdict.ACCEPTED
    assert receiver.check(signed(), NOW + 299) is Verdict.REPLAYED
    assert receiver.check(signed(delivery_id="id-2", timestamp=NOW + 600), NOW + 600) is Verdict.ACCEPTED
    assert receiver.check(signed(), NOW + 601) is Verdict.REFUSED
    # The clock was set back.
    assert receiver.check(signed(), NOW) is Verdict.REPLAYED
    assert list(receiver._seen) == ["id-2"]


def test_forged_delivery_is_not_remembered() -> None:
    """One who does not know the secret can't have a genuine delivery taken for a replay."""
    receiver = webhook()

    assert receiver.check(signed(secret="wrong"), NOW) is Verdict.REFUSED  # noqa: S106 - of this test
    assert receiver.check(signed(), NOW) is Verdict.ACCEPTED


def test_memory_is_bounded_and_no_replay_gets_through() -> None:
    """Where more deliveries come than are remembered, even the forgotten ones are not accepted again."""
    receiver = webhook(max_remembered=10)
    deliveries = [signed(delivery_id=f"id-{number}", timestamp=NOW + number) for number in range(100)]

    assert {receiver.check(delivery, NOW + 50) for delivery in deliveries} == {Verdict.ACCEPTED}
    assert len(receiver._seen) == 10
    assert {receiver.check(delivery, NOW + 50) for delivery in deliveries} == {Verdict.REPLAYED}


def test_one_of_many_at_once() -> None:
    """Of the same delivery, sent by many threads at once, one is accepted."""
    receiver = webhook()
    verdicts: list[Verdict] = []
    threads = [threading.Thread(target=lambda: verdicts.append(receiver.check(signed(), NOW))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert verdicts.count(Verdict.ACCEPTED) == 1
    assert verdicts.count(Verdict.REPLAYED) == 15
