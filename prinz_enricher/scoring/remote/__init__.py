"""Scoring by model servers elsewhere, over HTTP: where they are, how they are asked, and what they answer."""
