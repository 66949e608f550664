"""Tests of scoring by model servers elsewhere."""
