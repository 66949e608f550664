"""What a call costs that is refused because there is too much to do."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from prinz_enricher.config import QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import BatchTooLarge, InvalidInput, Overloaded
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.score.call import score_alone
from prinz_enricher.service.score.messages import Limits
from tests.scoring.hand_worker import HandWorker, closing, settle_cost
from tests.scoring.scripted import FAST, Call, rows, target_of
from tests.support.callback_call import CallbackCall


def submit(pool: VersionPool, seconds: float, *, rows: int = 1) -> None:
    """Submit a call whose rows do not fit the signature."""
    request = pb.ScoreRequest()
    request.columns.num_rows = rows
    request.columns.columns.add(name="no such input").doubles.values.append(1.0)
    now = time.monotonic()
    call = CallbackCall("Score", b"", now, now + seconds, lambda _: None, lambda _: None)
    score_alone(call, request, target_of(), pool, Limits(rows=10, bytes=1 << 20), Quotas(QuotaSettings()))


def test_rows_are_not_read_where_they_would_be_refused() -> None:
    """Under overload a call is refused before its rows cost anything; who has time learns what is wrong with them."""
    worker = HandWorker()
    worker.score(1)
    with closing(VersionPool(lambda _: worker, replace(FAST, batching="off"))) as pool:
        settle_cost(pool, 0.01)
        with pytest.raises(InvalidInput):
            submit(pool, 0.05)
        waiting = [Call(pool, target_of(), rows(("", 1.0))) for _ in range(60)]
        with pytest.raises(Overloaded):
            submit(pool, 0.05)
        with pytest.raises(InvalidInput):
            submit(pool, 60.0)
        with pytest.raises(BatchTooLarge):
            submit(pool, 0.05, rows=11)
        worker.score(100)
        assert all(call.values() == [2.0] for call in waiting)
