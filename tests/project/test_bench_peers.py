"""The parts of the benchmark of peers that only reckon: figures, ratios, targets, tables and plots."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.peers.environments import REQUIREMENTS, versions
from benchmarks.peers.figure import Figure, median, parse_run
from benchmarks.peers.generator import Generator, LoadFailed, last_json
from benchmarks.peers.pages import BEGIN, END, PAGE, fill, write
from benchmarks.peers.plots import Bar, bars
from benchmarks.peers.processes import Server, born
from benchmarks.peers.results import Results, Row
from benchmarks.peers.tables import generators, ratios, single_rows
from benchmarks.peers.targets import Target, decide
from benchmarks.peers.turns import by_turns
from tests.support.deadline import wait_until

MACHINE = {
    "processor": "A processor", "cores": 2, "memory_gb": 24.0, "kernel": "6.1", "python": "3.11.7",
    "began": "2026-11-24 15:00 UTC", "commit": "abc", "load_average": [0.1, 0.1, 0.1], "versions": {"grpcio": "1.85.1"},
}  # fmt: skip
ARGUMENTS = {"seconds": 3.0, "warm": 1.0, "runs": 3, "idle": 30.0, "unpinned": False}


def figure(rate: float, p50: float = 1.0, p99: float = 2.0, rows: int = 1, errors: int = 0) -> Figure:
    """Return a figure of one run."""
    return Figure(rate, p50, p99, rows, errors, "INTERNAL: no" if errors else "", "C++", 0.5, (rate,))


@pytest.fixture
def results() -> Results:
    """Ours at 21,000 calls/s, and peers of which the quickest one does not batch."""
    made = Results(dict(MACHINE), dict(ARGUMENTS))
    made.rows["ours"] = Row("ours, Rust front", "ours", batching=True, memory_mb=400.0)
    made.rows["slow"] = Row("Slow, batching", "peer", batching=True, versions={"slow": "1.2"})
    made.rows["quick"] = Row("Quick", "peer")
    made.rows["gone"] = Row("Gone", "peer", batching=True, why_not="uv could not install it: no | wheel")
    made.rows["echo-aio"] = Row("limit: grpc.aio echo", "limit")
    made.rows["ours"].loads = {"single_64": figure(21_000.0), "single_1": figure(4_000.0, p50=0.3)}
    made.rows["slow"].loads = {"single_64": figure(1_500.0), "single_1": figure(130.0, p50=7.0)}
    made.rows["quick"].loads = {"single_64": figure(3_000.0), "single_1": figure(900.0, p50=1.0)}
    made.rows["echo-aio"].loads = {"single_64": figure(7_000.0)}
    return made


def target(results: Results, start: str) -> Target:
    """Return the target whose words begin so."""
    return next(one for one in decide(results) if one.wanted.startswith(start))


def test_what_the_generator_prints_becomes_a_figure() -> None:
    """Rate, latencies, errors and the generator's share of its core are taken from its JSON."""
    told = {"rate": 250.0, "p50_ms": 1.5, "p99_ms": 4.0, "errors": 0, "error": "", "unexpected": 0, "cpu_share": 0.4}

    made = parse_run(told, "C++", rows=100)

    assert made.rows_per_second == 25_000
    assert (made.p50_ms, made.p99_ms, made.generator_share) == (1.5, 4.0, 0.4)
    assert made.sound


def test_an_answer_without_the_score_is_an_error() -> None:
    """A load whose answers lack the score is no figure to compare, and says why."""
    made = parse_run({"rate": 90.0, "p50_ms": 1.0, "p99_ms": 2.0, "errors": 0, "unexpected": 3}, "wrk", rows=1)

    assert not made.sound
    assert made.errors == 3
    assert made.error == "an answer without the score"


def test_a_run_without_answers_says_so() -> None:
    """A run that was over before its first answer is not taken for a server of no speed."""
    made = parse_run({"rate": 0.0, "p50_ms": -1.0, "p99_ms": -1.0}, "C++", rows=1)

    assert not made.sound
    assert made.error == "no answer within the time of a run"


def test_the_median_is_a_run_that_was_and_keeps_all_errors() -> None:
    """Of three runs the middle one is told with its own latencies, and the errors of all three."""
    made = median([figure(30.0, p50=3.0), figure(10.0, p50=1.0, errors=2), figure(20.0, p50=2.0)])

    assert (made.calls_per_second, made.p50_ms) == (20.0, 2.0)
    assert (made.errors, made.error) == (2, "INTERNAL: no")
    assert list(made.runs) == [30.0, 10.0, 20.0]


def test_the_last_line_of_json_is_what_counts() -> None:
    """What wrk prints of its own, before ours, is passed over."""
    assert last_json('Running 3s test\n  {odd}\n{"rate": 5.0}\n') == {"rate": 5.0}


def test_no_json_is_no_figures() -> None:
    """A generator that printed something else gave no figures, and what it printed is told."""
    with pytest.raises(LoadFailed, match="unable to connect"):
        last_json("unable to connect")


def test_the_best_peer_is_the_one_that_is_meant(results: Results) -> None:
    """The best of those that batch, of all by calls, and of all by latency are three questions."""
    batching, every, quickest = (
        results.best("single_64", batching=True),
        results.best("single_64"),
        results.best("single_1", by_latency=True),
    )

    assert [one[0] for one in (batching, every, quickest) if one] == ["Slow, batching", "Quick", "Quick"]


def test_a_figure_with_errors_is_never_the_best(results: Results) -> None:
    """Answers that come quickly because they are errors beat nobody."""
    results.rows["quick"].loads["single_64"] = figure(90_000.0, errors=1)

    best = results.best("single_64")

    assert best is not None
    assert best[0] == "Slow, batching"


def test_a_target_is_met_from_its_ratio_on(results: Results) -> None:
    """14 times the best peer that batches is enough where 13 are wanted, and both figures are told."""
    made = target(results, "64 callers, one row each")

    assert (made.met, made.verdict) == (True, "met")
    assert "14.00 x" in made.ours
    assert made.against == "Slow, batching: 1,500 rows/s"


def test_a_missed_target_is_told_plainly(results: Results) -> None:
    """A p50 of 0.3 of the best peer's is not below a quarter of it."""
    made = target(results, "1 caller: p50 below a quarter")

    assert made.verdict == "**MISSED**"
    assert (made.ours, made.against) == ("0.30 ms, 0.30 x", "Quick: 1.00 ms")


def test_what_was_not_measured_is_neither_met_nor_missed(results: Results) -> None:
    """Without a figure of ours, or of what it is held against, a target is not decided."""
    assert target(results, "one request of 100,000 rows: 4 x").verdict == "not measured"
    assert target(results, "idle").verdict == "not measured"
    assert target(results, "1,000,000 rows").verdict == "not measured"


def test_a_million_rows_may_come_in_ten_requests(results: Results) -> None:
    """Where one request is refused, ten that work are enough; where those fail too, the target is missed."""
    results.ours["arrow_1000000"] = figure(0.0, rows=1_000_000, errors=1)
    results.why_not["arrow_1000000"] = "INVALID_ARGUMENT: too large"
    assert target(results, "1,000,000 rows").verdict == "**MISSED**"

    results.numbers["million_seconds"] = 0.5
    made = target(results, "1,000,000 rows")
    assert (made.verdict, made.ours) == ("met", "ten requests: 2,000,000 rows/s")


def test_the_dense_form_is_held_against_columns(results: Results) -> None:
    """Half of the cost is not less than half."""
    results.numbers |= {"front_us_dense": 10.0, "front_us_columns": 20.0}
    assert target(results, "one-row call").verdict == "**MISSED**"

    results.numbers["front_us_dense"] = 9.9
    assert target(results, "one-row call").verdict == "met"


def test_absolute_targets_are_told_as_ratios_too(results: Results) -> None:
    """A machine of half the speed may take twice as long, and no longer; it may do half as much, and no less."""
    results.rows["ours"].loads["single_1"] = results.ours["single_1"] = figure(1_000.0, p50=0.79)
    results.ours["coalesced_256"] = figure(14_900.0)
    results.echo |= {"single_1": figure(1_000.0, p50=0.32), "coalesced_256": figure(3_569.0)}

    assert target(results, "1 caller: p50 below 0.4 ms").verdict == "**MISSED**"
    slow, quick = target(results, "1 caller: below 2.5 x the p50"), target(results, "coalesced: 4.2 x the calls/s")

    assert (slow.verdict, slow.ours, slow.against) == ("met", "0.79 ms, 2.47 x", "grpc.aio echo: 0.32 ms")
    assert (quick.verdict, quick.ours) == ("**MISSED**", "14,900 rows/s, 4.17 x")


def test_ours_and_the_echo_are_compared_as_they_were_measured_by_turns(results: Results) -> None:
    """The echo's figure at another time of the run, when the machine may have had another speed, does not count."""
    results.ours["single_64"], results.echo["single_64"] = figure(10_000.0), figure(4_001.0)

    assert target(results, "64 callers: 2.5 x").verdict == "**MISSED**"

    results.echo["single_64"] = figure(4_000.0)
    assert target(results, "64 callers: 2.5 x").verdict == "met"


def test_loads_by_turns_meet_the_same_drift(tmp_path: Path) -> None:
    """Each is run once before any is run again, and a run that fails is told with its load alone."""
    order: list[str] = []

    def load(name: str) -> Figure:
        order.append(name)
        if name == "b" and len(order) == 4:
            raise LoadFailed("broke off")
        return figure(float(len(order)))

    found = by_turns(
        {"a": lambda _: load("a"), "b": lambda _: load("b")}, Generator({0}, 1.0, 0.0, runs=3, folder=tmp_path)
    )

    assert order == ["a", "b"] * 3
    assert (found["a"].calls_per_second, found["a"].sound) == (3.0, True)
    assert (found["b"].error, found["b"].sound) == ("broke off", False)


def test_a_peer_that_was_not_run_is_listed_with_why(results: Results) -> None:
    """It has a row with as many cells as the others, in which the reason breaks no table."""
    lines = single_rows(results).splitlines()

    row = next(line for line in lines if "Gone" in line)
    assert "not run: uv could not install it: no / wheel" in row
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_ratios_tell_both_figures(results: Results) -> None:
    """Each line has the best peer, its figure, ours and the ratio."""
    assert "| 64 callers | Quick | 3,000/s | 21,000/s | 7.0 x |" in ratios(results)


@pytest.mark.parametrize(("limit", "verdict"), [(63_000.0, "enough"), (62_000.0, "near its limit")])
def test_a_generator_must_be_able_to_do_three_times_as_much(results: Results, limit: float, verdict: str) -> None:
    """Against the highest figure that it measured, not the mean."""
    results.limits["single_64"] = figure(limit)

    assert verdict in generators(results)


def test_results_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    """Tables can be made anew from the JSON alone."""
    results.numbers["idle_share"] = 0.004
    write(results, tmp_path)

    read = Results.read(tmp_path / "peers.json")
    write(read, tmp_path / "again")

    for name in ("peers.json", "peers.md", "single_rows.svg"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / name).read_text()
    assert json.loads((tmp_path / "peers.json").read_text())["numbers"] == {"idle_share": 0.004}


def test_a_busy_machine_is_told(results: Results, tmp_path: Path) -> None:
    """Figures taken while others were at work are marked."""
    results.machine["load_average"] = [3.0, 1.0, 1.0]

    write(results, tmp_path)

    assert "do not trust these figures" in (tmp_path / "peers.md").read_text()


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_plot_is_sound_xml_with_longer_bars_for_more(*, logarithmic: bool) -> None:
    """Titles are escaped, and no bar leaves the picture."""
    values = [
        Bar("A & <B>", 47_000.0, "47,000", "ours"),
        Bar("small", 12.0, "12", "peer"),
        Bar("none", 0.0, "", "peer"),
    ]

    root = ET.fromstring(bars("Calls", "calls/s", values, logarithmic=logarithmic))  # noqa: S314 - our own

    _, *drawn = root.iter("{http://www.w3.org/2000/svg}rect")
    widths = [float(one.attrib["width"]) for one in drawn]
    assert widths[0] > widths[1] > 0 == widths[2]
    assert all(float(one.attrib["x"]) + float(one.attrib["width"]) <= float(root.attrib["width"]) for one in drawn)
    assert any(one.text == "A & <B>" for one in root.iter("{http://www.w3.org/2000/svg}text"))


def test_the_documentation_has_a_place_for_the_figures(results: Results) -> None:
    """The page keeps its words, and gets the figures between its marks, however often."""
    page = PAGE.read_text(encoding="utf-8")

    once = fill(page, results)

    assert fill(once, results) == once
    assert once.startswith(page.partition(BEGIN)[0])
    assert once.endswith(page.partition(END)[2])
    assert "| ours, Rust front | 4,000 (0.30 / 2.0) |" in once


def test_each_peer_has_pinned_requirements() -> None:
    """What is to be installed has a version in each line, and the versions that the tables tell are among them."""
    pinned = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))

    assert pinned == sorted(path.stem for path in REQUIREMENTS.glob("*.in"))
    for name in pinned:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines)
        assert versions(name, ("mlflow", "not-there")).keys() == {"mlflow"}


def test_nothing_of_a_server_is_left(tmp_path: Path) -> None:
    """Children, those that left their parents, and those in a session of their own end with the server."""
    program = f"""
import subprocess, sys, time
from pathlib import Path
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
leave = f"import subprocess, sys; print(subprocess.Popen({{sleep!r}}, stdout=-3).pid)"
away = f"import subprocess, sys; print(subprocess.Popen({{sleep!r}}, stdout=-3, start_new_session=True).pid)"
pids = [subprocess.Popen(sleep).pid]
pids += [int(subprocess.check_output([sys.executable, "-c", one])) for one in (leave, away)]
made = Path({str(tmp_path)!r}) / "pids.new"
made.write_text(" ".join(map(str, pids)))
made.rename(made.with_suffix(""))
time.sleep(600)
"""
    with Server([sys.executable, "-c", program], os.sched_getaffinity(0)) as server:
        wait_until((tmp_path / "pids").exists, 30)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert {server.pid, *pids} <= set(server.family())

    assert len(pids) == 3
    assert not any(born(pid) for pid in pids)
    assert not server.runs
