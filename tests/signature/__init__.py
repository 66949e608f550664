"""Tests of the package `signature`."""
