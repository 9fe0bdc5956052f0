"""The dashboard: its source, the types of Grafana, and the names of metrics."""

import json
import re
import subprocess
import sys

import pytest

from docs.generate import all_metrics
from tests.monitoring.prometheus import ALERTS, DASHBOARD, MONITORING, SELECTOR, expressions, yaml_of
from tests.support.waiting import HANG_SECONDS

# Endings of the samples of a histogram.
OF_HISTOGRAMS = re.compile(r"_(?:bucket|count|sum)$")
# Metrics of the Prometheus client, of which docs/reference/metrics.md says that they exist.
OF_THE_CLIENT = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
}


def test_the_dashboard_equals_its_source() -> None:
    """`make dashboard` has been run since docker/monitoring/dashboard.py was changed."""
    done = subprocess.run(  # noqa: S603 (a script of this repository)
        [sys.executable, MONITORING / "dashboard.py"], capture_output=True, text=True, timeout=HANG_SECONDS, check=True
    )

    assert done.stdout == DASHBOARD.read_text()


def test_grafana_has_each_field_of_the_dashboard() -> None:
    """Grafana's own types keep every field: a field with a wrong name would be lost on the way through them."""
    reason = "grafana-foundation-sdk is not installed; `make lint` installs it"
    types = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=reason)
    plugins.register_default_plugins()
    written = json.loads(DASHBOARD.read_text())

    read = json.loads(encoder.JSONEncoder().encode(types.Dashboard.from_json(written)))

    assert lost(written, read) == []


def lost(written: object, read: object, path: str = "") -> list[str]:
    """Return the places of `written` that `read` does not have with the same value."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [place for key in written for place in lost(written[key], read.get(key), f"{path}/{key}")]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [place for number, (one, other) in pairs for place in lost(one, other, f"{path}/{number}")]
    return [] if written == read else [path]


def test_all_metrics_of_dashboard_and_alerts_exist() -> None:
    """docs/reference/metrics.md lists each metric that an expression names."""
    rules = [rule["expr"] for group in yaml_of(ALERTS)["groups"] for rule in group["rules"]]
    names = {found.split("{")[0] for each in [*expressions(), *rules] for found in SELECTOR.findall(each)}

    histograms = {name for name, kind, *_ in all_metrics() if kind == "histogram"}
    known = {name for name, *_ in all_metrics()} - histograms | OF_THE_CLIENT
    assert len(names) > 20
    assert {OF_HISTOGRAMS.sub("", name) for name in names - known} <= histograms


def test_panels_do_not_overlap() -> None:
    """Each panel has cells of the grid for itself, and no row of panels has a gap."""
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [
        (place["x"] + right, place["y"] + down)
        for place in places
        for right in range(place["w"])
        for down in range(place["h"])
    ]

    assert len(cells) == len(set(cells)) == 24 * max(place["y"] + place["h"] for place in places)
