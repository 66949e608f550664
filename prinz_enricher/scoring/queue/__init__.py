"""What is scored next, what shares a model call, and what can't be taken: policy, without threads or I/O."""

from __future__ import annotations

from prinz_enricher.scoring.queue.cost import Ahead, Cost
from prinz_enricher.scoring.queue.lanes import LaneLimits, Next, Queue
from prinz_enricher.scoring.queue.pending import Pending, Stage
from prinz_enricher.scoring.queue.shared import apart, can_share, halves, lane_of, singles, together

__all__ = [
    "Ahead",
    "Cost",
    "LaneLimits",
    "Next",
    "Pending",
    "Queue",
    "Stage",
    "apart",
    "can_share",
    "halves",
    "lane_of",
    "singles",
    "together",
]
