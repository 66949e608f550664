"""What is written of a run: the results, their tables, their plots, and the figures in the documentation."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.plots import plots
from benchmarks.peers.results import Results
from benchmarks.peers.tables import head, ratios, report, single_rows, targets

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"

BEGIN, END = "<!-- figures: `make bench-peers` writes what stands here -->", "<!-- end of the figures -->"


def write(results: Results, folder: Path) -> None:
    """Write the results with their tables and plots.

    Args:
        results: What a run gave.
        folder: Where to; it is made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "peers.json")
    (folder / "peers.md").write_text(f"# Our service beside its peers\n\n{report(results)}", encoding="utf-8")
    for name, plot in plots(results).items():
        (folder / name).write_text(plot, encoding="utf-8")


def fill(page: str, results: Results) -> str:
    """Return the documentation with the main figures of a run between its marks.

    Raises:
        ValueError: The marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    sections = {
        "Single rows: calls/s (p50 / p99 ms)": single_rows(results),
        "Ours ÷ the best peer": ratios(results),
        "Targets": targets(results),
    }
    tables = "\n\n".join(f"### {title}\n\n{content}" for title, content in sections.items() if content)
    return f"{before}{begin}\n\n{head(results)}\n\n{tables}\n\n{end}{after}"
