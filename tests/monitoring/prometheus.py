"""A running Prometheus, its programs, and the files of the repository with expressions for it."""

import json
import math
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.waiting import HANG_SECONDS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docker/monitoring"
CONFIGURATION = MONITORING / "prometheus/prometheus.yml"
ALERTS = MONITORING / "prometheus/alerts.yml"
DASHBOARD = MONITORING / "grafana/dashboards/swin-serve.json"
SCALED_OBJECT = ROOT / "deploy/kubernetes/components/autoscale/scaledobject.yaml"
NAMESPACE = "swin-serve"
# The folder into which `make prometheus` unpacks the programs.
UNPACKED = ROOT / "build/prometheus/usr/bin"
# A name of a metric of swin-serve with its labels.
SELECTOR = re.compile(r"\b(?:swin|process)_\w+(?:\{[^}]*\})?")

Series = tuple[Mapping[str, str], float]


def program(name: str) -> str:
    """Return the path of a program of Prometheus; without it, the test is skipped."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(UNPACKED)]))
    if found is None:
        pytest.skip(f"{name} is not installed; on Debian and Ubuntu, `make prometheus` unpacks it")
    return found


def yaml_of(path: Path) -> Any:
    """Return the content of a YAML file."""
    return pytest.importorskip("yaml", reason="PyYAML is not installed").safe_load(path.read_text())


def alerts() -> list[dict[str, Any]]:
    """Return all alert rules."""
    return [rule for group in yaml_of(ALERTS)["groups"] for rule in group["rules"]]


def scaling_queries() -> list[str]:
    """Return the queries by which KEDA scales the deployment."""
    return [trigger["metadata"]["query"] for trigger in yaml_of(SCALED_OBJECT)["spec"]["triggers"]]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without the titles of its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return the expressions of the dashboard, each once."""
    return [*dict.fromkeys(target["expr"] for panel in panels() for target in panel["targets"])]


class Prometheus:
    """A running Prometheus with the configuration of the repository, and other targets and times.

    Args:
        folder: an empty folder for its configuration and its data.
        targets: addresses to scrape, instead of those that the name service of Docker knows.
    """

    def __init__(self, folder: Path, targets: list[str]) -> None:
        command = [program("prometheus"), f"--config.file={self._configure(folder, targets)}"]
        options = [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0", "--log.format=json"]
        self._client: httpx.Client | None = None
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)  # noqa: S603 (fixed arguments)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._client = httpx.Client(base_url=f"http://{self._start()}", trust_env=False)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process."""
        if self._client is not None:
            self._client.close()
        self._process.terminate()
        self._process.wait(HANG_SECONDS)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def query(self, expression: str) -> list[Series]:
        """Return the current value of each series of an expression, without those that are not a number."""
        assert self._client is not None
        answer = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        series = [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]
        return [(labels, value) for labels, value in series if not math.isnan(value)]

    def without_data(self, expressions: Iterable[str]) -> list[str]:
        """Wait until each expression has a series. Return those that have none at the end of the time."""
        ends = time.monotonic() + HANG_SECONDS
        while missing := [each for each in expressions if not self.query(each)]:
            if time.monotonic() > ends:
                return missing
            time.sleep(0.2)
        return []

    def _configure(self, folder: Path, targets: list[str]) -> Path:
        configuration = yaml_of(CONFIGURATION)
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [str(CONFIGURATION.parent / name) for name in configuration["rule_files"]]
        (scrape,) = configuration["scrape_configs"]
        del scrape["dns_sd_configs"]
        # The label that Prometheus takes from a pod in Kubernetes.
        scrape["static_configs"] = [{"targets": targets, "labels": {"namespace": NAMESPACE}}]
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(configuration))  # JSON is YAML
        return file

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line)

    def _start(self) -> str:
        """Wait until Prometheus answers queries. Return its address. The two log lines come in any order."""
        logged: dict[str, dict[str, str]] = {}
        while not logged.keys() >= {"Listening on", "Server is ready to receive web requests."}:
            event = json.loads(self._lines.get(timeout=HANG_SECONDS))
            logged[event.get("msg", "")] = event
        return logged["Listening on"]["address"]
