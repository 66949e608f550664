"""Frames between a front and its workers: a header, JSON, and rows as Arrow or as plain doubles."""
