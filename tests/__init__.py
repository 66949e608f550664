"""Tests, in the folders of what they test; `integration` starts the whole service."""
