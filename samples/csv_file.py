"""Reads the published data sets, whose files differ in separators and quotes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

_SNIFFED_CHARACTERS = 64 * 1024


def read_csv_file(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a delimited text file.

    The separator is found out (comma, semicolon, tab or bar), and texts lose single quotes around them, which the
    BankSim files have.

    Args:
        file: The file, in UTF-8, with a header.
        columns: The columns wanted; others are left out.

    Returns:
        The columns in the order asked for.

    Raises:
        ValueError: The file lacks a column.
    """
    with file.open(encoding="utf-8-sig", newline="") as text:
        header = csv.Sniffer().sniff(text.read(_SNIFFED_CHARACTERS).split("\n", 1)[0], delimiters=",;\t|")
    frame = pd.read_csv(file, sep=header.delimiter, encoding="utf-8-sig")
    frame = frame.rename(columns=lambda name: str(name).strip().strip("'"))
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"{file} has no column {', '.join(map(repr, missing))}.")
    frame = frame[list(columns)]
    texts = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{column: frame[column].astype(str).str.strip().str.strip("'") for column in texts})
