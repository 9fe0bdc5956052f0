"""A real Prometheus scrapes a service under load, and answers the expressions of dashboard, alerts and autoscaler."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.monitoring.load import service_under_load
from tests.monitoring.prometheus import SELECTOR, Prometheus, alerts, expressions, panels, program, scaling_queries

pytestmark = pytest.mark.usefixtures("patient_clients")

# Grafana replaces each variable by such a value.
VARIABLES = {"$job": "swin-serve", "$instance": ".*", "$__rate_interval": "1m", "$__range": "1h"}
# The comparison at the end of an alert's expression.
COMPARISON = re.compile(r"\s*(?:==|>|<)\s*[\d.]+$")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes one service under two names, as if there were two instances."""
    program("prometheus")  # skip before the service starts
    with service_under_load(tmp_path_factory.mktemp("service")) as load:
        port = urlsplit(load.url).port
        targets = [f"127.0.0.1:{port}", f"localhost:{port}"]
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), targets)
        try:
            load.fail_a_batch()
            assert not prometheus.without_data(["count(swin_engine_restarts_total == 1) == 2"])
            load.fail_a_batch()
            yield prometheus
        finally:
            prometheus.stop()


def filled_in(expression: str) -> str:
    """Return an expression of the dashboard with values in place of its variables."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def test_every_expression_of_the_dashboard_returns_data(prometheus: Prometheus) -> None:
    """No panel is empty: each expression has a series with a number."""
    assert prometheus.without_data([filled_in(each) for each in expressions()]) == []


def test_a_panel_adds_up_instances(prometheus: Prometheus) -> None:
    """Two series of one expression differ in a label that their legend shows, unless a table shows all labels."""
    assert prometheus.without_data(["count(swin_ready) == 2"]) == []
    same = []
    for panel in panels():
        for target in panel["targets"] if panel["type"] != "table" else ():
            shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
            series = prometheus.query(filled_in(target["expr"]))
            legends = [tuple(labels[name] for name in shown) for labels, _ in series]
            if len(set(legends)) < len(legends):
                same.append(panel["title"])

    assert same == []


def test_every_alert_watches_data(prometheus: Prometheus) -> None:
    """The left side of each comparison, and each selector in it, has a series: no alert is silent for want of data."""
    sides = [COMPARISON.sub("", rule["expr"]) for rule in alerts()]
    selectors = {found for side in sides for found in SELECTOR.findall(side)}

    assert {rule["expr"] for rule in alerts()}.isdisjoint(sides)
    assert prometheus.without_data([*sides, *selectors]) == []


def test_a_real_failure_raises_an_alert(prometheus: Prometheus) -> None:
    """After a failure of its engine, the alert of an instance is pending: Prometheus evaluates the rules."""
    pending = 'ALERTS{alertname="SwinServeEngineRestarts",alertstate="pending",job="swin-serve",severity="warning"}'

    assert prometheus.without_data([pending]) == []


def test_every_query_of_the_autoscaler_returns_one_number(prometheus: Prometheus) -> None:
    """Under load, each query has one series, and it is not 0: KEDA takes the first one."""
    assert len(scaling_queries()) == 2
    assert prometheus.without_data([f"{query} > 0" for query in scaling_queries()]) == []
    assert [len(prometheus.query(query)) for query in scaling_queries()] == [1, 1]
