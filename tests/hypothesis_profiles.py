"""Hypothesis profiles: few examples by default; over a million random values with `HYPOTHESIS_PROFILE=nightly`."""

import os

from hypothesis import HealthCheck, settings

COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

settings.register_profile("quick", COMMON, max_examples=50)
settings.register_profile("soak", COMMON, max_examples=1_500)
settings.register_profile("nightly", COMMON, max_examples=40_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
