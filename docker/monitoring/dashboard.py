"""The dashboard of Grafana: `python docker/monitoring/dashboard.py` prints its JSON; `make dashboard` writes it.

Each row is a question of an operator. Expressions add up all selected instances. Knows nothing about the code of the
service: tests/monitoring asks a real Prometheus for each expression.
"""
# ruff: noqa: INP001  a script, not part of a package

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

Json = dict[str, Any]

# The series of the selected instances. The two variables are at the top of the dashboard.
CHOSEN = 'job="$job",instance=~"$instance"'
# Requests of clients, without those of probes and of Prometheus.
ASKED = f'{CHOSEN},route!~"/metrics|/ping|.*([hH]ealth|[rR]eady|[lL]ive).*"'
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The sum of the widths of the panels that stand beside each other, in columns of Grafana.
COLUMNS = 24
# A component is at its limit from here on: the same number as LIMIT in app/observability/utilization.py.
LIMIT = 0.85


class Panel(NamedTuple):
    """One panel: what it shows, and the expressions by their legends."""

    title: str
    about: str
    targets: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    # The color of values from a limit on; below it, the color is green.
    limit: tuple[float, str] | None = None
    maximum: float | None = None


def rate(metric: str, labels: str = CHOSEN) -> str:
    """Return the expression for the increase of a counter in a second."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(share: float, histogram: str, labels: str = CHOSEN, by: str = "le") -> str:
    """Return the expression for a quantile over all instances: their buckets are added up first."""
    return f"histogram_quantile({share}, sum by ({by}) ({rate(f'{histogram}_bucket', labels)}))"


def share(part: str, whole: str) -> str:
    """Return the expression for a share, which is 0 if there has never been a part."""
    return f"(sum({part}) or vector(0)) / sum({whole})"


CLASSIFIED = rate("swin_stage_seconds_count", f'{CHOSEN},stage="infer"')
REFUSED = f'{CHOSEN},reason=~"overloaded|deadline_exceeded|too_many_connections"'

ROWS: Mapping[str, Sequence[Panel]] = {
    "Is it healthy?": [
        Panel(
            "Ready instances",
            "Instances that classify, of those that answer Prometheus.",
            {"ready": f"sum(swin_ready{{{CHOSEN}}})", "of": f"count(swin_ready{{{CHOSEN}}})"},
            kind="stat",
            width=4,
        ),
        Panel(
            "Requests",
            "Requests that were answered, without those of probes and of Prometheus.",
            {"": f"sum({rate('swin_requests_total', ASKED)})"},
            "reqps",
            kind="stat",
            width=4,
        ),
        Panel(
            "Errors",
            "Share of the requests that were answered with status 500. Each one is a defect or a failure of an engine.",
            {"": share(rate("swin_requests_total", f'{ASKED},code="500"'), rate("swin_requests_total", ASKED))},
            "percentunit",
            kind="stat",
            width=4,
            limit=(0.01, "red"),
        ),
        Panel(
            "Refused",
            "Share of the images that were refused because the service had too much work.",
            {
                "": f"(sum({rate('swin_rejected_total', REFUSED)}) or vector(0)) / "
                f"((sum({rate('swin_rejected_total')}) or vector(0)) + sum({CLASSIFIED}))"
            },
            "percentunit",
            kind="stat",
            width=4,
            limit=(0.05, "orange"),
        ),
        Panel(
            "Latency, 99th percentile",
            "Time from the header section of a request to its response.",
            {"": quantile(0.99, "swin_request_seconds", ASKED)},
            "s",
            kind="stat",
            width=4,
        ),
        Panel(
            "Restarts",
            "Engines and HTTP workers that failed and were replaced in the time of the dashboard.",
            {
                "engines": f"sum(increase(swin_engine_restarts_total{{{CHOSEN}}}[$__range]))",
                "HTTP workers": f"sum(increase(swin_http_worker_restarts_total{{{CHOSEN}}}[$__range]))",
            },
            kind="stat",
            width=4,
            limit=(1, "orange"),
        ),
        Panel(
            "Requests by status",
            "499: the client disconnected. 429, 503, 504: refused. 500: a defect or a failure of an engine.",
            {"{{code}}": f"sum by (code) ({rate('swin_requests_total', ASKED)})"},
            "reqps",
            stacked=True,
        ),
        Panel(
            "Latency",
            "Time from the header section of a request to its response, with the transfer of the image.",
            {
                f"{percent}th percentile": quantile(percent / 100, "swin_request_seconds", ASKED)
                for percent in (50, 90, 99)
            },
            "s",
        ),
        Panel(
            "Engines",
            "The device on which each engine was verified, and the network that it runs.",
            {
                "": f"swin_engine_info{{{CHOSEN}}} * on (job, instance) group_left (name, sha256) "
                f"swin_model_info{{{CHOSEN}}}"
            },
            kind="table",
        ),
    ],
    "What waits, and where?": [
        Panel(
            "Time of an image by stage, mean",
            "The highest area is the place to look at. queue: the wait for an engine.",
            {
                "{{stage}}": f"sum by (stage) ({rate('swin_stage_seconds_sum')}) / "
                f"sum by (stage) ({rate('swin_stage_seconds_count')})"
            },
            "s",
            stacked=True,
        ),
        Panel(
            "Time of an image by stage, 99th percentile",
            "Percentiles of stages do not add up.",
            {"{{stage}}": quantile(0.99, "swin_stage_seconds", by="le, stage")},
            "s",
        ),
        Panel(
            "Images that wait",
            "queue: for an engine. decode: in decoding or waiting for it.",
            {
                "queue": f"sum(swin_queue_depth{{{CHOSEN}}})",
                "decode": f"sum(swin_decode_in_progress{{{CHOSEN}}})",
            },
        ),
    ],
    "What bounds it?": [
        Panel(
            "Utilization by component",
            "The mean of all instances, in the last ten seconds. A component is at its limit from 85 % on. The "
            "sentence `bottleneck` in `GET /model` of an instance names its limit, and what helps.",
            {"{{component}}": f"avg by (component) (swin_utilization_ratio{{{CHOSEN}}})"},
            "percentunit",
            limit=(LIMIT, "red"),
            maximum=1,
        ),
        Panel(
            "Busiest component of each instance",
            "Instances that differ much: the load balancer does not distribute the load evenly.",
            {"{{instance}}": f"max by (instance) (swin_utilization_ratio{{{CHOSEN}}})"},
            "percentunit",
            limit=(LIMIT, "red"),
            maximum=1,
        ),
        Panel(
            "Busy engines",
            "Engines that run a batch, on average, beside decode threads and event loops that work.",
            {
                "engines": f"sum({rate('swin_engine_busy_seconds_total')})",
                "decode threads": f"sum({rate('swin_decode_busy_seconds_total')})",
                "event loops": f"sum({rate('swin_loop_busy_seconds_total')})",
            },
        ),
        Panel(
            "Batch size",
            "Batches grow when images wait. A size near 1 at high utilization: larger batches do not pay here.",
            {
                "mean": f"sum({rate('swin_batch_size_sum')}) / sum({rate('swin_batch_size_count')})",
                "90th percentile": quantile(0.9, "swin_batch_size"),
            },
        ),
        Panel(
            "Padding",
            "Share of the computation that was spent on filling batches up to a bucket.",
            {
                "padding": f"sum({rate('swin_batch_padding_total')}) / "
                f"(sum({rate('swin_batch_padding_total')}) + sum({rate('swin_batch_size_sum')}))"
            },
            "percentunit",
        ),
        Panel(
            "CPUs",
            "CPU time of all processes of an instance, in CPUs.",
            {"{{instance}}": f"sum by (instance) ({rate('process_cpu_seconds_total')})"},
        ),
        Panel(
            "Memory",
            "Resident memory. Pages that processes of an instance share count for each of them.",
            {"{{instance}}": f"sum by (instance) (process_resident_memory_bytes{{{CHOSEN}}})"},
            "bytes",
        ),
        Panel(
            "Request bodies in memory",
            "Bytes of images that are held at the moment. The setting max_uploads_mib bounds them.",
            {"{{instance}}": f"sum by (instance) (swin_uploaded_bytes{{{CHOSEN}}})"},
            "bytes",
        ),
        Panel(
            "Open files",
            "Share of the limit. Each connection is an open file.",
            {
                "{{instance}}": f"sum by (instance) (process_open_fds{{{CHOSEN}}}) / "
                f"sum by (instance) (process_max_fds{{{CHOSEN}}})"
            },
            "percentunit",
        ),
    ],
    "What is refused or canceled?": [
        Panel(
            "Images not classified, by error code",
            "docs/reference/errors.md describes each code.",
            {"{{reason}}": f"sum by (reason) ({rate('swin_rejected_total')})"},
            "ops",
            stacked=True,
        ),
        Panel(
            "Images canceled, by stage",
            "Their clients disconnected. Many in one stage: the timeout of the clients is shorter than the wait there.",
            {"{{stage}}": f"sum by (stage) ({rate('swin_cancelled_total')})"},
            "ops",
            stacked=True,
        ),
        Panel(
            "Failures",
            "Each failed batch restarts its engine.",
            {
                "failed batches": f"sum(increase(swin_batches_failed_total{{{CHOSEN}}}[$__rate_interval]))",
                "engine restarts": f"sum(increase(swin_engine_restarts_total{{{CHOSEN}}}[$__rate_interval]))",
                "HTTP worker restarts": f"sum(increase(swin_http_worker_restarts_total{{{CHOSEN}}}[$__rate_interval]))",
            },
        ),
    ],
    "What is asked?": [
        Panel(
            "Images classified",
            "A request can have several images.",
            {"images": f"sum({CLASSIFIED})"},
            "ops",
            width=12,
        ),
        Panel(
            "Requests by route",
            "Shows which protocols the clients speak. Requests of probes and of Prometheus are left out.",
            {"{{route}}": f"sum by (route) ({rate('swin_requests_total', ASKED)})"},
            "reqps",
            width=12,
            stacked=True,
        ),
    ],
}


def dashboard() -> Json:
    """Return the dashboard."""
    return {
        "uid": "swin-serve",
        "title": "swin-serve",
        "description": "The metrics of swin-serve, in the order of an operator's questions.",
        "tags": ["swin-serve"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(), 1)],
    }


def _variables() -> list[Json]:
    of_series = {"type": "query", "datasource": DATA_SOURCE, "refresh": 2, "sort": 1}
    jobs, instances = "label_values(swin_ready, job)", 'label_values(swin_ready{job="$job"}, instance)'
    many = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {"name": "job", "label": "Job", "query": jobs, **of_series},
        {"name": "instance", "label": "Instance", "query": instances, **of_series, **many},
    ]


def _panels() -> Iterator[Json]:
    """Yield the panels with their positions: from left to right, then downwards."""
    y = 0
    for question, panels in ROWS.items():
        yield {"type": "row", "title": question, "collapsed": False, "panels": [], "gridPos": _place(0, y, COLUMNS, 1)}
        x, y = 0, y + 1
        for panel in panels:
            height = 4 if panel.kind == "stat" else 8
            yield _panel(panel, _place(x, y, panel.width, height))
            x += panel.width
            if x == COLUMNS:
                x, y = 0, y + height


def _place(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, place: Json) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "targets": [
            _target(panel, letter, legend, expression)
            for letter, (legend, expression) in zip(ascii_uppercase, panel.targets.items(), strict=False)
        ],
        **_options(panel.kind),
    }


def _field(panel: Panel) -> Json:
    steps: list[Json] = [{"value": None, "color": "green"}]
    field: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.limit is not None:
        value, color = panel.limit
        steps.append({"value": value, "color": color})
    if panel.maximum is not None:
        field["max"] = panel.maximum
    if panel.kind == "timeseries":
        field["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.limit else "off"},
        }
    return field


def _target(panel: Panel, letter: str, legend: str, expression: str) -> Json:
    target: Json = {"refId": letter, "datasource": DATA_SOURCE, "expr": expression, "legendFormat": legend}
    if panel.kind == "table":
        return target | {"instant": True, "range": False, "format": "table"}
    return target | {"range": True}


def _options(kind: str) -> Json:
    if kind == "stat":
        last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"options": {"reduceOptions": last, "colorMode": "value", "graphMode": "area"}}
    if kind == "table":
        hidden = {"Time": True, "Value": True, "job": True}
        return {
            "options": {"showHeader": True},
            "transformations": [{"id": "organize", "options": {"excludeByName": hidden}}],
        }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}}


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")
