"""What `swin-serve bench` shows of its figures: tables as text, one line of JSON, and the report. Measures nothing."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from app.cli.remote_model import Description
from app.cli.terminal import aligned
from app.load import figures
from app.load.report import report
from app.load.sweep import Sweep
from app.system.cpus import available_cpus, cpu_model
from app.validation_messages import printable, shorten

# The libraries that send and receive.
LIBRARIES = ("uvloop", "httptools")


@dataclass(frozen=True)
class Subject:
    """The service that is measured, as it describes itself, and the size of the images."""

    url: str
    model: Description | None
    images: int
    bytes: int

    @property
    def title(self) -> str:
        """A line that names the service."""
        if self.model is None:
            return self.url
        return f"{shorten(self.model.name)} ({self.url})"


def text_of(subject: Subject, sweep: Sweep, remarks: Sequence[str]) -> str:
    """Return the tables as text, and the sentences below them."""
    parts = [printable(f"{subject.title}: {_images(subject)}, windows of {sweep.plan.seconds:g} s")]
    parts += ["\n".join([table.title, *aligned([table.head, *table.rows])]) for table in figures.tables(sweep)]
    if remarks:
        parts.append("\n".join(map(printable, remarks)))
    return "\n\n".join(parts)


def _images(subject: Subject) -> str:
    return f"{subject.images:,} image{'s' if subject.images > 1 else ''} of {figures.size(subject.bytes)} together"


def json_of(subject: Subject, sweep: Sweep, remarks: Sequence[str], faults: Sequence[str]) -> str:
    """Return the figures and what was measured as one line of JSON. Figures that are not known are null."""
    document: dict[str, Any] = {
        "url": subject.url,
        "model": None if subject.model is None else subject.model.model_dump(),
        "images": {"number": subject.images, "bytes": subject.bytes},
        "seconds": sweep.plan.seconds,
        "warm_up": sweep.plan.warm_up,
        "seed": sweep.plan.seed,
        "closed": [figures.as_json(measured) for measured in sweep.closed],
        "open": [figures.as_json(measured) for measured in sweep.open],
        "is_complete": sweep.is_complete,
        "remarks": remarks,
        "faults": faults,
        "client": {"cpu": cpu_model(), "cpus": available_cpus(), "versions": _versions()},
        "version": version("swin-serve"),
    }
    return json.dumps(document, allow_nan=False)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def report_of(subject: Subject, sweep: Sweep, remarks: Sequence[str], svg: str) -> str:
    """Return the page of the report, with the picture."""
    plan, model = sweep.plan, subject.model
    facts = {"Service": subject.url}
    if model is not None:
        facts["Model"] = f"{model.name}, by swin-serve {model.version}"
        for number, engine in enumerate(model.engines, 1):
            times = ", ".join(
                f"{bucket.batch}: {figures.milliseconds(bucket.milliseconds)}" for bucket in engine.buckets
            )
            facts[f"Engine {number}"] = f"{engine.device}; ms by batch size, at the start: {times}"
    facts |= {
        "Images": _images(subject),
        "Windows": f"{plan.seconds:g} s each, after {plan.warm_up:g} s of the same load; seed {plan.seed}",
        "Load generator": f"swin-serve {version('swin-serve')}, {figures.facts_of(_versions())}",
        "Its machine": f"{cpu_model()}, {available_cpus()} CPUs for this process",
        "Time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return report(f"Load on {subject.title}", svg, figures.tables(sweep), remarks, facts)
