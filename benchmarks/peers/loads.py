"""The loads that everybody gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """So many callers, each of whom waits for an answer before the next call.

    Attributes:
        name: Its key in the results.
        title: Its column in the tables.
        model: `wine` or `fraud`.
        callers: Calls in flight.
        rows: Rows of one call.
    """

    name: str
    title: str
    model: str
    callers: int
    rows: int


SINGLE_1 = Load("single_1", "1 caller", "wine", 1, 1)
SINGLE_16 = Load("single_16", "16 callers", "wine", 16, 1)
SINGLE_64 = Load("single_64", "64 callers", "wine", 64, 1)
FRAUD_64 = Load("fraud_64", "fraud, 64 callers", "fraud", 64, 1)
BATCH_1K = Load("batch_1000", "1,000 rows", "wine", 1, 1_000)
BATCH_10K = Load("batch_10000", "10,000 rows", "wine", 1, 10_000)
BATCH_100K = Load("batch_100000", "100,000 rows", "wine", 1, 100_000)

SINGLE = (SINGLE_1, SINGLE_16, SINGLE_64)
BATCHES = (BATCH_1K, BATCH_10K, BATCH_100K)
LOADS = (*SINGLE, FRAUD_64, *BATCHES)
