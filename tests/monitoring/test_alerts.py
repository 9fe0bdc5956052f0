"""The configuration of Prometheus and the alert rules, by promtool and beside their page."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.prometheus import ALERTS, CONFIGURATION, ROOT, alerts, program, yaml_of
from tests.support.waiting import HANG_SECONDS

RULE_TESTS = Path(__file__).parent / "alerts.test.yml"
PAGE = "docs/how-to/alerts.md"


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)  # noqa: S603 (fixed arguments)


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", CONFIGURATION), ("check", "rules", "--lint-fatal", ALERTS), ("test", "rules", RULE_TESTS)],
    ids=["config", "rules", "tests of rules"],
)
def test_promtool_accepts(arguments: tuple[object, ...]) -> None:
    """Prometheus reads its configuration and the rules, and each alert fires and stays silent as its tests say."""
    done = promtool(*arguments)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways() -> None:
    """The tests of rules have a moment for each alert at which it fires, and one at which it does not."""
    cases: list[dict[str, Any]] = [case for test in yaml_of(RULE_TESTS)["tests"] for case in test["alert_rule_test"]]
    tested = {(case["alertname"], bool(case["exp_alerts"])) for case in cases}

    assert tested == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


def test_each_alert_has_a_severity_a_duration_and_a_sentence() -> None:
    """An alert is critical or a warning, waits before it fires, and says in one sentence what is the case."""
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert re.fullmatch(r"[1-9]\d*m", rule["for"]), rule["alert"]
        assert re.fullmatch(r"(?:[A-Z]|\{\{).*[a-z}\d]\.", rule["annotations"]["summary"]), rule["alert"]


def test_the_page_names_events_of_the_log() -> None:
    """The code logs each event that the page tells the reader to look for."""
    named = set(re.findall(r"`((?:engine|HTTP worker) [a-z ]+)`", (ROOT / PAGE).read_text()))
    logged = {
        found for file in (ROOT / "app").rglob("*.py") for found in re.findall(r'log\.\w+\("(.+?)"', file.read_text())
    }

    assert named
    assert named <= logged


def test_the_page_has_an_entry_for_each_alert() -> None:
    """The headings of the page are the alerts in their order, and each alert names its heading."""
    headings = re.findall(r"^## (Swin\w+)$", (ROOT / PAGE).read_text(), re.MULTILINE)

    assert headings == [rule["alert"] for rule in alerts()]
    assert {rule["annotations"]["runbook"] for rule in alerts()} == {f"{PAGE}#{each.lower()}" for each in headings}
