"""Candidates: settings that are tried, as variables of an environment and in words. Measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.settings import PREFIX

# The settings that are tuned, in the order in which they are written. A setting that the user gives is not tuned.
TUNED = ("instances_per_device", "threads", "max_batch", "http_workers", "decode", "max_queue_size")

# The setting that follows from the objective and not from a measurement.
BOUND = "max_queue_size"

Value = int | str


@dataclass(frozen=True)
class Candidate:
    """Settings that differ from the defaults, by name. None is the defaults."""

    settings: tuple[tuple[str, Value], ...] = ()

    @property
    def values(self) -> Mapping[str, Value]:
        """The settings by name."""
        return dict(self.settings)

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the settings with a gain that can be measured: all but the bound of the queue."""
        return tuple(name for name, _ in self.settings if name != BOUND)

    @property
    def variables(self) -> dict[str, str]:
        """The settings as environment variables."""
        return {variable(name): str(value) for name, value in self.settings}

    def without(self, name: str) -> "Candidate":
        """Return the candidate with the default of one setting. Without a measured setting, it is the defaults."""
        rest = replace(self, settings=tuple(each for each in self.settings if each[0] != name))
        return rest if rest.measured else Candidate()

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.settings) or "defaults"


DEFAULTS = Candidate()


def candidate_of(values: Mapping[str, Value | None]) -> Candidate:
    """Return the candidate with these settings. A value of None is the default."""
    return Candidate(tuple((name, value) for name in TUNED if (value := values.get(name)) is not None))


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"
