"""Parameters of the Python client: of the types that rows have, and refused by their name before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prinz_enricher.client import AsyncClient, Client
from prinz_enricher.errors import InvalidInput
from tests.client.conftest import StandIn

ROWS: list[Any] = [{"x": 1.0}, {"x": [1.0, 2.0]}, pd.DataFrame({"x": [1.0] * 300}).iloc[:3]]


def score(asynchronous: bool, stand_in: StandIn, rows: Any, params: Mapping[str, object]) -> None:
    """Score with a client of either kind."""
    if not asynchronous:
        with Client(stand_in.address) as client:
            client.score("twice", rows, params=params)
        return

    async def ask() -> None:
        async with AsyncClient(stand_in.address) as client:
            await client.score("twice", rows, params=params)

    asyncio.run(ask())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("rows", ROWS, ids=["one record", "columns", "frame"])
@pytest.mark.parametrize("p", [np.int64(3), np.float32(3), np.array(3.0), Decimal(3), 3], ids=repr)
def test_numbers_of_every_kind_are_taken(stand_in: StandIn, asynchronous: bool, rows: Any, p: object) -> None:
    """Both clients send numpy's scalars, 0-d arrays and decimals as the double that is declared, beside any rows."""
    score(asynchronous, stand_in, rows, {"p": p, "when": date(1970, 1, 2)})
    (request,) = stand_in.requests
    assert request.params["p"].double_value == 3.0
    assert request.params["when"].timestamp_value == 86_400_000_000


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("rows", ROWS, ids=["one record", "columns", "frame"])
@pytest.mark.parametrize("p", [None, pd.NA, "3", np.array([3.0]), 2**60 + 1, slice(1)], ids=repr)
def test_what_can_not_be_taken_is_named(stand_in: StandIn, asynchronous: bool, rows: Any, p: object) -> None:
    """Nothing is sent, and the error names the parameter."""
    with pytest.raises(InvalidInput) as refused:
        score(asynchronous, stand_in, rows, {"p": p, "when": None})
    assert [one.field for one in refused.value.violations] == ['params["p"]']
    assert stand_in.requests == []
