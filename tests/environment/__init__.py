"""Tests of the whole environment: `make test-environment`."""
