"""The autoscaler divides sums by sums, of metrics that exist, in the namespace of the service."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.observability.aggregation import merge
from app.observability.metrics import Metrics
from docs.generate import all_metrics
from tests.deploy.manifests import KUBERNETES, Manifests, copied, overlay, rendered

SCALED_OBJECT = KUBERNETES / "components/autoscale/scaledobject.yaml"
SERVICE_MONITOR = KUBERNETES / "components/servicemonitor/servicemonitor.yaml"
TRIGGERS = [trigger["metadata"] for trigger in Manifests.read(SCALED_OBJECT).one("ScaledObject")["spec"]["triggers"]]

# Fields of the kinds of operators that the manifests use, by the path of the object that has them. From
# keda.sh/v1alpha1 of KEDA 2.16 and monitoring.coreos.com/v1 of Prometheus Operator 0.80. kubernetes-validate has no
# schema for these kinds.
FIELDS = {
    "ScaledObject": {
        "spec": {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "advanced", "triggers"},
        "spec.scaleTargetRef": {"name"},
        "spec.advanced": {"horizontalPodAutoscalerConfig"},
        "spec.advanced.horizontalPodAutoscalerConfig": {"behavior"},
        "spec.advanced.horizontalPodAutoscalerConfig.behavior": {"scaleUp", "scaleDown"},
        "spec.triggers": {"name", "type", "metricType", "metadata"},
        "spec.triggers.metadata": {"serverAddress", "query", "threshold", "ignoreNullValues"},
    },
    "ServiceMonitor": {
        "spec": {"selector", "endpoints"},
        "spec.selector": {"matchLabels"},
        "spec.endpoints": {"port", "path", "interval", "scrapeTimeout"},
    },
}


def objects_at(value: Any, path: str) -> list[dict[str, Any]]:
    """Return the objects at a path of names. A list on the way stands for each of its items."""
    found = [value]
    for name in path.split("."):
        found = [each[name] for each in found]
        found = [item for each in found for item in (each if isinstance(each, list) else [each])]
    return found


@pytest.mark.parametrize("path", [SCALED_OBJECT, SERVICE_MONITOR], ids=lambda path: path.stem)
def test_the_fields_of_custom_kinds_are_known(path: Path) -> None:
    """Each field of an object of an operator is one of its definition."""
    (manifest,) = Manifests.read(path).objects
    for where, known in FIELDS[manifest["kind"]].items():
        fields = [set(each) for each in objects_at(manifest, where)]
        assert fields, where
        assert all(each <= known for each in fields), where


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["threshold"])
def test_a_trigger_has_what_keda_requires(trigger: dict[str, str]) -> None:
    """Address, query and a positive threshold are there, and all values are strings, as KEDA reads them."""
    assert {"serverAddress", "query", "threshold"} <= trigger.keys()
    assert all(isinstance(value, str) for value in trigger.values())
    assert float(trigger["threshold"]) > 0


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["threshold"])
def test_a_query_names_metrics_that_exist(trigger: dict[str, str]) -> None:
    """Each name in a query is a metric of the service."""
    named = set(re.findall(r"\bswin_\w+", trigger["query"]))

    assert named
    assert named <= {name for name, *_ in all_metrics()}


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["threshold"])
def test_a_query_divides_a_sum_by_the_number_of_engines(trigger: dict[str, str]) -> None:
    """A query sums each metric over all pods, and divides by the sum of all engines, never averaging over pods.

    An average over pods or models would hide a busy one among idle ones.
    """
    numerator, denominator = trigger["query"].rsplit(" / ", 1)

    assert re.fullmatch(r"sum\(swin_engine_info\{[^}]*\}\)", denominator)
    for name in re.findall(r"\bswin_\w+", numerator):
        assert re.search(rf"sum\((avg_over_time|rate)\({name}\{{", numerator), name
    assert not re.search(r"\b(avg|min|max|count|quantile|topk|bottomk|group)\b ?(by|without|\()", trigger["query"])


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["threshold"])
def test_a_query_takes_one_namespace(trigger: dict[str, str]) -> None:
    """Each metric is selected by the namespace, so that another service in the cluster does not count."""
    metrics = re.findall(r"\bswin_\w+", trigger["query"])

    assert len(re.findall(r'\bswin_\w+\{namespace="swin-serve"\}', trigger["query"])) == len(metrics)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger["threshold"])
def test_an_empty_answer_is_no_zero(trigger: dict[str, str]) -> None:
    """While Prometheus has no data, KEDA reports an error and keeps the pods."""
    assert trigger["ignoreNullValues"] == "false"


def test_the_sum_of_engine_infos_is_the_number_of_engines() -> None:
    """The denominator counts engines: each has a series with the value 1, whatever its labels."""
    metrics = Metrics()
    for index in ("0", "1"):
        metrics.engine.labels(index).info({"device": "cpu", "name": f"engine {index}"})
    samples = [sample for family in merge([metrics.counts()]) for sample in family.samples]

    assert [sample.value for sample in samples if sample.name == "swin_engine_info"] == [1, 1]


def test_the_scaled_object_scales_the_deployment() -> None:
    """It names the Deployment, which has no replicas of its own: each `kubectl apply` would reset them."""
    scaled, deployment = overlay("autoscale").one("ScaledObject")["spec"], overlay("autoscale").one("Deployment")

    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert 2 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


def test_the_queries_follow_the_namespace(tmp_path: Path) -> None:
    """Changing `namespace` in the overlay changes each selector of each query."""
    kustomization = copied(tmp_path) / "overlays/autoscale/kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("namespace: swin-serve", "namespace: flowers"))
    triggers = rendered(kustomization.parent).one("ScaledObject")["spec"]["triggers"]

    expected = [trigger["query"].replace('"swin-serve"', '"flowers"') for trigger in TRIGGERS]
    assert [trigger["metadata"]["query"] for trigger in triggers] == expected
