"""Draw what a command prints: `python scripts/terminal_picture.py docs/images/models.svg prinz-enricher models`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110


def main() -> None:
    """Run the command, and write its output as SVG."""
    file, *command = sys.argv[1:]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(printed))
    Path(file).write_text(console.export_svg(title=" ".join(command)), encoding="utf-8")


if __name__ == "__main__":
    main()
