"""Tests of the caches of models and environments."""
