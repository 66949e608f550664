"""A load test of a server of `prinz.enricher.v1`: closed and open loops, every answer of which is checked.

Processes of their own make the load (`generator.py`) with calls that were prepared before (`request_pool.py`); the one
that starts them runs the schedule and reports (`run.py`, `report.py`, `rendering.py`).
"""
