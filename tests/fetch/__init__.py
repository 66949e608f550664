"""Tests of the programs that fetch."""
