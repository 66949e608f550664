"""What a call does, by whatever front it came: list, describe, score, watch."""
