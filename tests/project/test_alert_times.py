"""The times and the numbers of deploy/prometheus/alerts.yml, by promtool, over series that reach them or do not."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import program

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "alerts.yml"
UP = ('up{job="prinz-enricher"}', "1x120")
SCORE = 'grpc_service="prinz.enricher.v1.EnricherService",grpc_method="Score"'
WINE = 'model="wine",version="1"'

FIRING: dict[str, tuple[int, int, list[tuple[str, str]]]] = {
    "Absent": (4, 6, [('up{job="other"}', "1x120")]),
    "Down": (11, 13, [('up{job="prinz-enricher"}', "1x9 0x60")]),
    "Restarts": (17, 20, [UP, ('process_start_time_seconds{job="prinz-enricher"}', "1x5 2x5 3x5 4x30")]),
    "Errors": (
        5, 8,
        [
            UP,
            (f'grpc_server_handled_total{{{SCORE},grpc_code="Unavailable"}}', "0+12x60"),
            (f'grpc_server_handled_total{{{SCORE},grpc_code="OK"}}', "0+88x60"),
            ('prinz_enricher_quota_rejections_total{principal="p"}', "0+6x60"),
        ],
    ),
    "ModelErrors": (
        5, 8,
        [
            UP,
            (f'prinz_enricher_calls_total{{{WINE},outcome="MODEL_ERROR"}}', "0+6x60"),
            (f'prinz_enricher_calls_total{{{WINE},outcome="ok"}}', "0+94x60"),
        ],
    ),
    "ModelFailed": (4, 6, [UP, (f'prinz_enricher_workers{{{WINE},state="failed"}}', "1x60")]),
    "ModelLoading": (
        9, 11,
        [
            UP,
            (f'prinz_enricher_workers{{{WINE},state="loading"}}', "1x60"),
            (f'prinz_enricher_workers{{{WINE},state="available"}}', "0x60"),
        ],
    ),
    "WorkerRestarts": (11, 13, [UP, (f"prinz_enricher_worker_restarts_total{{{WINE}}}", "0x9 1 2 3 4x60")]),
    "Slow": (
        10, 13,
        [
            UP,
            # Without buckets of versions, by those of all calls.
            (f'grpc_server_handling_seconds_bucket{{{SCORE},le="1.0"}}', "0+98x60"),
            (f'grpc_server_handling_seconds_bucket{{{SCORE},le="2.0"}}', "0+100x60"),
            (f'grpc_server_handling_seconds_bucket{{{SCORE},le="+Inf"}}', "0+100x60"),
        ],
    ),
    "Queue": (
        10, 13,
        [
            UP,
            (f'prinz_enricher_duration_seconds_sum{{{WINE},phase="queue"}}', "0+60x60"),
            (f'prinz_enricher_duration_seconds_count{{{WINE},phase="queue"}}', "0+100x60"),
        ],
    ),
    "Overloaded": (
        5, 8,
        [
            UP,
            (f'prinz_enricher_calls_total{{{WINE},outcome="OVERLOADED"}}', "0+2x60"),
            (f'prinz_enricher_calls_total{{{WINE},outcome="ok"}}', "0+98x60"),
        ],
    ),
    "UpstreamDown": (1, 3, [UP, ('prinz_enricher_upstream_open_breakers{endpoint="farm"}', "1x60")]),
    "UpstreamErrors": (
        10, 13,
        [
            UP,
            ('prinz_enricher_upstream_requests_total{endpoint="farm",status="503"}', "0+6x60"),
            ('prinz_enricher_upstream_requests_total{endpoint="farm",status="200"}', "0+94x60"),
        ],
    ),
    "CatalogOld": (
        11, 13,
        [
            UP,
            ('prinz_enricher_catalog_age_seconds{registry="default"}', "0+60x60"),
            ('prinz_enricher_catalog_stale{registry="default"}', "1x60"),
        ],
    ),
    "CatalogNeverRead": (4, 6, [UP, ('prinz_enricher_catalog_stale{registry="default"}', "1x60")]),
    "CatalogFaults": (14, 16, [UP, ('prinz_enricher_catalog_faults{registry="default"}', "1x60")]),
    "CertificateExpires": (
        19, 22, [UP, ('prinz_enricher_tls_certificate_expiry_seconds{what="server"}', f"{14 * 86400 + 600}-60x60")]
    ),
    "ReloadFailed": (9, 11, [UP, ('prinz_enricher_reload_failures_total{what="settings"}', "0x9 1x30")]),
    "AuthFailures": (9, 12, [UP, ('prinz_enricher_auth_failures_total{reason="TOKEN_INVALID"}', "0+66x60")]),
    "Quota": (14, 17, [UP, ('prinz_enricher_quota_rejections_total{principal="p"}', "0+66x60")]),
    "Memory": (9, 11, [UP, ('process_resident_memory_bytes{job="prinz-enricher"}', "5e9x60")]),
    "Processor": (19, 22, [UP, ('process_cpu_seconds_total{job="prinz-enricher"}', "0+57x60")]),
    "OpenFiles": (
        4, 6,
        [
            UP,
            ('process_open_fds{job="prinz-enricher"}', "900x60"),
            ('process_max_fds{job="prinz-enricher"}', "1024x60"),
        ],
    ),
}  # fmt: skip
"""For each alert a minute at which none fires, one at which this one alone does, and the series.

A rate is right once there are as many minutes of a series as it is taken over.
"""

QUIET = [
    UP,
    ('process_start_time_seconds{job="prinz-enricher"}', "1x5 2x5 3x120"),
    (f'grpc_server_handled_total{{{SCORE},grpc_code="Unavailable"}}', "0+4x120"),
    (f'grpc_server_handled_total{{{SCORE},grpc_code="ResourceExhausted"}}', "0+50x120"),
    (f'grpc_server_handled_total{{{SCORE},grpc_code="OK"}}', "0+946x120"),
    ('prinz_enricher_quota_rejections_total{principal="p"}', "0+50x120"),
    (f'prinz_enricher_calls_total{{{WINE},outcome="INVALID_INPUT"}}', "0+500x120"),
    (f'prinz_enricher_calls_total{{{WINE},outcome="MODEL_ERROR"}}', "0+4x120"),
    (f'prinz_enricher_calls_total{{{WINE},outcome="OVERLOADED"}}', "0+4x120"),
    (f'prinz_enricher_calls_total{{{WINE},outcome="ok"}}', "0+492x120"),
    (f'prinz_enricher_workers{{{WINE},state="loading"}}', "1x120"),
    (f'prinz_enricher_workers{{{WINE},state="available"}}', "1x120"),
    (f'prinz_enricher_workers{{{WINE},state="failed"}}', "1x3 0x120"),
    (f"prinz_enricher_worker_restarts_total{{{WINE}}}", "0x9 1 2x120"),
    (f'prinz_enricher_duration_seconds_bucket{{{WINE},phase="total",le="1.0"}}', "0+995x120"),
    (f'prinz_enricher_duration_seconds_bucket{{{WINE},phase="total",le="+Inf"}}', "0+1000x120"),
    # Of all calls, with those that failed: not asked where versions have buckets.
    (f'grpc_server_handling_seconds_bucket{{{SCORE},le="1.0"}}', "0+90x120"),
    (f'grpc_server_handling_seconds_bucket{{{SCORE},le="2.0"}}', "0+100x120"),
    (f'grpc_server_handling_seconds_bucket{{{SCORE},le="+Inf"}}', "0+100x120"),
    (f'prinz_enricher_duration_seconds_sum{{{WINE},phase="queue"}}', "0+40x120"),
    (f'prinz_enricher_duration_seconds_count{{{WINE},phase="queue"}}', "0+100x120"),
    ('prinz_enricher_upstream_open_breakers{endpoint="farm"}', "1 0x120"),
    ('prinz_enricher_upstream_requests_total{endpoint="farm",status="503"}', "0+4x120"),
    ('prinz_enricher_upstream_requests_total{endpoint="farm",status="200"}', "0+96x120"),
    ('prinz_enricher_catalog_age_seconds{registry="default"}', "590x120"),
    ('prinz_enricher_catalog_stale{registry="default"}', "1x120"),
    ('prinz_enricher_catalog_faults{registry="default"}', "0x120"),
    ('prinz_enricher_tls_certificate_expiry_seconds{what="server"}', f"{15 * 86400}x120"),
    ('prinz_enricher_reload_failures_total{what="tokens"}', "3x120"),
    ('prinz_enricher_auth_failures_total{reason="TOKEN_INVALID"}', "0+50x120"),
    ('process_resident_memory_bytes{job="prinz-enricher"}', "3.9e9x120"),
    ('process_resident_memory_bytes{job="other"}', "9e9x120"),
    ('process_cpu_seconds_total{job="prinz-enricher"}', "0+50x120"),
    ('process_open_fds{job="prinz-enricher"}', "800x120"),
    ('process_max_fds{job="prinz-enricher"}', "1024x120"),
]
"""Series of a service that is busy, and has a fault now and then: no alert is about them."""


def test_times_and_numbers(tmp_path: Path) -> None:
    """Each alert fires after its time, and alone; none does below the numbers, nor for another job."""
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    assert {f"PrinzEnricher{alert}" for alert in FIRING} == {rule["alert"] for rule in group["rules"]}
    file, promtool = tmp_path / "tests.yml", program("promtool")
    tests = [case(QUIET, {minute: [] for minute in range(0, 120, 5)})]
    tests += [case(series, {quiet: [], firing: [alert]}) for alert, (quiet, firing, series) in FIRING.items()]
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(file)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(done.stdout + done.stderr)


def case(series: list[tuple[str, str]], expected: dict[int, list[str]]) -> dict[str, Any]:
    """Return a test of promtool's: the alerts that fire at some minutes."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="PrinzEnricher{alert}"}}', "value": 1} for alert in alerts],
            }
            for minute, alerts in expected.items()
        ],
    }
