"""What is remembered of requests that were read: enough to read others by, and never more than is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from prinz_enricher.batch.layout import input_layout
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.service.score.template import Templates, learn_template
from tests.support.gathering import DOUBLES, HandPool, Service, columns_request, handled, row


def test_the_number_of_templates_stays_bounded() -> None:
    """By count and by memory; requests of the same kind are learnt once."""
    templates = Templates(max_count=50, max_bytes=1 << 20)
    layout = input_layout(DOUBLES.signature)

    def learnt(request: pb.ScoreRequest) -> Any:
        template = learn_template(request.SerializeToString(), request, layout)
        assert template is not None
        return template

    for number in range(300):
        templates.add(learnt(columns_request(row(1.0), model="m" * (number + 1))))
        assert len(templates) <= 50
    for number in range(20):
        templates.add(learnt(columns_request(row(1.0), model=f"{number:05}")))
        assert len(templates.of_size(len(columns_request(row(1.0), model="00000").SerializeToString()))) <= 4
    for number in range(100):
        templates.add(learnt(columns_request(row(1.0), model="m" * (50_000 + number))))
    assert sum(one.memory for size in range(300_000) for one in templates.of_size(size)) <= 1 << 20
    same = [learnt(columns_request(row(float(number)), request_id=f"{number:04}")) for number in range(9)]
    before = len(templates)
    for one in same:
        templates.add(one)
    assert len(templates) == before + 1
    assert list(templates.of_size(same[0].size)) == [same[-1]]
    templates.forget(same[-1])
    templates.forget(same[-1])
    assert len(templates) == before


def test_a_service_that_is_asked_many_things_remembers_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers all."""
    service = Service(HandPool(), DOUBLES)
    monkeypatch.setattr(service._grouper, "_templates", Templates(max_count=10))
    for number in range(60):
        [one] = handled(service, columns_request(row(1.0), request_id="i" * number))
        assert one.response.request_id == "i" * number
        assert len(service._grouper._templates) <= 10
