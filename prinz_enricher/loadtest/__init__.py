"""A load test of a server of `prinz.enricher.v1`: closed and open loops, every answer of which is checked."""
