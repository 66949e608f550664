"""Tests of the registry client and the private server."""
