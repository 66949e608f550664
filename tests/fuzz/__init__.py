"""Fuzzing of a running service: whatever bytes come, it answers as the contract says."""
