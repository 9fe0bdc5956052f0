"""The whole result of a run as one line of JSON. Measures nothing."""

import json
import math
from dataclasses import asdict
from typing import Any

from app.tuning.answer import remarks, sentence
from app.tuning.candidate import BOUND, DEFAULTS
from app.tuning.run import Entry
from app.tuning.trials import Trial
from app.tuning.tuner import Result


def record(result: Result, version: str) -> str:
    """Return the whole result as one line of JSON. A number that does not exist is null."""
    request, confirmed = result.request, result.confirmed
    found: dict[str, Any] = {
        "version": version,
        "bundle": result.bundle,
        "device": result.costs.engines[None].device,
        "cpus": result.costs.cpus,
        "images": len(request.samples.images),
        "objective": {"percentile": request.objective.percentile, "milliseconds": request.objective.milliseconds},
        "wanted_rate": request.rate,
        "answer": sentence(result),
        "remarks": remarks(result),
        "settings": dict(result.candidate.values),
        "requests_per_second": confirmed.rate if confirmed else None,
        "defaults_are_as_good": confirmed is not None and result.candidate == DEFAULTS,
        "windows": [_entry_record(entry) for entry in result.history],
        "gains": [asdict(gain) for gain in result.simplified.gains] if result.simplified else [],
        "removed": result.simplified.removed if result.simplified else [],
        "candidates": [_trial_record(trial) for trial in result.trials],
        "failed": result.failed,
        "bound_setting": BOUND if BOUND in result.candidate.values else None,
        "noise": result.noise,
        "seconds": result.seconds,
    }
    return json.dumps(_finite(found))


def _trial_record(trial: Trial) -> dict[str, Any]:
    return {
        "settings": dict(trial.candidate.values),
        "predicted_requests_per_second": trial.prediction.rate,
        "bound_by": trial.prediction.bound,
        "requests_per_second": trial.held,
        "alone": asdict(trial.alone),
    }


def _entry_record(entry: Entry) -> dict[str, Any]:
    return {
        "phase": entry.phase,
        "settings": dict(entry.candidate.values),
        "is_repeated": entry.is_repeated,
        **asdict(entry.window),
    }


def _finite(value: Any) -> Any:
    """Replace infinite numbers and NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
