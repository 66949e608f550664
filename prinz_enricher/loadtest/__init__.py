"""A load test of a server of `prinz.enricher.v1`: closed and open loops, whose every answer is checked.

Processes of their own make the load (`generator.py`, `step_run.py`) with calls that were prepared before
(`row_pool.py`, `rehearsal.py`); one starts them and reports (`run.py`, `report.py`, `page.py`).
"""
