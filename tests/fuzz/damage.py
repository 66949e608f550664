"""Bytes that nearly are what they were: flipped, cut, spliced, overwritten."""

from __future__ import annotations

from hypothesis import strategies as st

Change = tuple[str, int, int]
"""What is done, where, and with which number."""

NUMBERS = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
KINDS = ("flip", "byte", "word", "long", "cut", "remove", "repeat", "splice", "swap")

changes: st.SearchStrategy[list[Change]] = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 1 << 16), st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1)),
    min_size=1,
    max_size=5,
)


def damaged(data: bytes, done: list[Change], donor: bytes = b"") -> bytes:
    """Apply changes.

    Args:
        data: What is damaged.
        done: One after the other.
        donor: What parts are spliced in from; the data itself where it is empty.
    """
    for kind, place, number in done:
        if not data:
            break
        data = _changed(bytearray(data), kind, place % len(data), number, donor or data)
    return data


def _changed(data: bytearray, kind: str, at: int, number: int, donor: bytes) -> bytes:
    size = 1 + number % 24
    match kind:
        case "flip":
            data[at] ^= 1 << number % 8
        case "byte":
            data[at] = number % 256
        case "word":
            at &= ~3
            data[at : at + 4] = (number % 2**32).to_bytes(4, "little")[: len(data) - at]
        case "long":
            at &= ~7
            data[at : at + 8] = number.to_bytes(8, "little")[: len(data) - at]
        case "cut":
            del data[at:]
        case "remove":
            del data[at : at + size]
        case "repeat":
            data[at:at] = data[at : at + size] * (1 + number % 50)
        case "splice":
            start = number % len(donor)
            data[at:at] = donor[start : start + size * 4]
        case "swap":
            other = number % len(data)
            data[at], data[other] = data[other], data[at]
    return bytes(data)
