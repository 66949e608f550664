"""Tests of the pinned wire form."""
