"""The answer in words, as a file and as JSON."""

import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from app.settings import Settings
from app.tuning import answer
from app.tuning.candidate import Candidate, candidate_of
from app.tuning.confirmation import Confirmation, Gain, Simplification
from app.tuning.costs import Cost, Costs, DecodeCosts, EngineCosts
from app.tuning.objective import Objective
from app.tuning.record import record
from app.tuning.run import Entry
from app.tuning.samples import Samples
from app.tuning.settings_file import settings_file
from app.tuning.tuner import Request, Result
from tests.tuning.fakes import measured, trial

TUNED = candidate_of({"max_batch": 4, "http_workers": 1, "max_queue_size": 64})
COSTS = Costs(
    2.0,
    {None: EngineCosts("cpu", 1, {1: Cost(0.004, 0.004)})},
    {"exact": DecodeCosts(Cost(0.001, 0.001), 1000)},
)


def result(candidate: Candidate = TUNED, rate: float | None = None) -> Result:
    """Return the result of a run in which a candidate holds 850 requests/s."""
    request = Request(Settings(), Samples([b"image"], [], 1), Objective(99, 0.02), rate, (0, 1), 0)
    own = [measured(850, latency_ms=8), measured(850, latency_ms=9)]
    defaults = [measured(850, latency_ms=30, holds=rate is not None)]
    gains = [
        Gain("max_batch", measured(850, latency_ms=8), measured(850, latency_ms=14, holds=False)),
        Gain("http_workers"),
    ]
    found = Result(request, "digits", COSTS, 180, [trial(Candidate(), 900), trial(candidate, 1200)])
    if candidate == Candidate():
        found.confirmed = Confirmation(candidate, 850, own, own)
    else:
        found.confirmed, found.simplified = (
            Confirmation(candidate, 850, own, defaults),
            Simplification(candidate, gains),
        )
    return found


def values(text: str) -> dict[str, str]:
    """Return what docker reads: each line is empty, a comment, or NAME=VALUE."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"SWIN_[A-Z_]+=\S+", line) for line in lines)
    return dict(line.split("=", 1) for line in lines)


def test_the_file_holds_the_settings_that_differ() -> None:
    """Nothing stands behind a value, because docker would take it as a part of the value."""
    assert values(settings_file(result(), "1")) == {
        "SWIN_MAX_BATCH": "4",
        "SWIN_HTTP_WORKERS": "1",
        "SWIN_MAX_QUEUE_SIZE": "64",
    }


def test_each_setting_has_its_gain_above_it() -> None:
    """A gain that was not measured is not claimed."""
    lines = settings_file(result(), "1").splitlines()
    above = {line.partition("=")[0]: lines[index - 1] for index, line in enumerate(lines) if line.startswith("SWIN")}

    assert "p99 was 8.00 ms instead of 14.0 ms at 850 requests/s" in above["SWIN_MAX_BATCH"]
    assert "could not be measured" in above["SWIN_HTTP_WORKERS"]


def test_a_shell_reads_the_file(tmp_path: Path) -> None:
    """`set -a; . ./tuned.env` exports the settings."""
    file = tmp_path / "tuned.env"
    file.write_text(settings_file(result(), "1"))

    done = subprocess.run(  # noqa: S603 (a shell)
        ["/bin/sh", "-c", f"set -a; . {file}; echo $SWIN_MAX_BATCH"], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("4\n", "")


def test_the_settings_of_the_file_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service starts with them."""
    for name, value in values(settings_file(result(), "1")).items():
        monkeypatch.setenv(name, value)

    settings = Settings()

    assert (settings.max_batch, settings.http_workers, settings.max_queue_size) == (4, 1, 64)


def test_as_good_defaults_are_a_file_of_comments() -> None:
    """The file is valid, and changes nothing."""
    found = result(Candidate())

    assert "defaults are as good" in answer.sentence(found)
    assert "defaults are as good" in settings_file(found, "1").replace("\n# ", " ")
    assert values(settings_file(found, "1")) == {}


def test_the_sentence_names_rate_latency_and_the_defaults() -> None:
    """It holds what an operator compares."""
    assert answer.sentence(result()) == (
        "These settings hold 850 requests/s within p99 <= 20 ms (100.0% of 2,000 requests in time, p99 8.00 to 9.00 "
        "ms). The defaults do not (50.0% of 1,000 requests in time, p99 30.0 ms)."
    )


def test_at_a_given_rate_the_sentence_names_cpu_time() -> None:
    """The rate was given, so the cost is the answer."""
    assert "for 1.00 ms of CPU time a request. The defaults take 1.00 ms" in answer.sentence(result(rate=850))


def test_defaults_that_do_not_hold_a_given_rate_have_no_cost() -> None:
    """Their CPU time is no comparison, and without an answer it does not exist."""
    found = result(rate=850)
    found.confirmed = Confirmation(TUNED, 850, [measured(850)], [measured(850, holds=False, cpu_ms=math.nan)])

    assert "The defaults do not (50.0% of 1,000 requests in time" in answer.sentence(found)
    assert "nan" not in answer.sentence(found)


def test_defaults_alone_are_not_called_as_good() -> None:
    """Nothing else was tried, because all settings are given."""
    found = result(Candidate())
    del found.trials[1:]

    assert "The defaults hold 850 requests/s" in answer.sentence(found)
    assert "No other settings were tried" in answer.sentence(found)


def test_the_file_names_the_given_settings_without_secrets() -> None:
    """The rate was measured with them, so the file alone does not promise it."""
    found = result()
    given = Settings.model_validate(
        {"decode": "fast", "threads": 1, "api_keys": "secret-of-16-characters", "port": 9000}
    )
    found.request = replace(found.request, settings=given)
    text = settings_file(found, "1")

    assert "have to be given, too: SWIN_DECODE=fast SWIN_THREADS=1\n" in text
    assert "secret" not in text


def test_a_stall_is_not_called_impossible() -> None:
    """One of thirty requests was late in each trial: that is the machine, and not the network."""
    found = result()
    found.confirmed = found.simplified = None
    for each in found.trials:
        each.alone = measured(100, latency_ms=25, share_in_time=0.97, holds=False)

    assert answer.sentence(found) == (
        "No rate was confirmed within p99 <= 20 ms. With one request at a time, p99 was 25.0 ms: the machine is too "
        "busy, or the time too short. Repeat it on a quiet machine, or with more --minutes."
    )


def test_a_latency_that_cannot_be_held_says_what_has_to_change() -> None:
    """The best latency of a single client, and the costs that take it."""
    found = result()
    found.confirmed = found.simplified = None
    for each in found.trials:
        each.alone = measured(100, latency_ms=25, holds=False)

    text = answer.sentence(found)

    assert "p99 <= 20 ms cannot be held" in text
    assert "p99 is 25.0 ms at best" in text
    assert "The network takes 4.00 ms for an image, and decoding 1.00 ms" in text


def test_a_rate_that_was_not_confirmed_is_not_stated() -> None:
    """One request at a time is in time, so the machine was too busy."""
    found = result()
    found.confirmed = found.simplified = None

    assert "No rate was confirmed" in answer.sentence(found)


@pytest.mark.parametrize(("holds", "expected"), [(True, "No rate was confirmed"), (False, "No settings that were")])
def test_a_given_rate_that_does_not_hold_is_said(expected: str, *, holds: bool) -> None:
    """A rate that held in the trials only is not confirmed."""
    found = result(rate=850)
    found.confirmed = found.simplified = None
    for each in found.trials:
        each.add(measured(850, holds=holds))

    assert answer.sentence(found).startswith(expected)


def test_remarks_say_how_certain_the_answer_is() -> None:
    """The generator shares the machine, windows can have few requests, and other programs can run."""
    found = result()
    assert len(answer.remarks(found)) == 1

    assert found.confirmed is not None
    found.confirmed.windows[0] = replace(measured(850), requests=120, holds=False)
    found.history = [Entry("trial", TUNED, replace(measured(850), noise=0.3))]
    text = " ".join(answer.remarks(found))

    assert "only 120 requests" in text
    assert "Other programs took 10% of the CPUs" in text
    assert "1 of 2 windows" in text


def test_noise_includes_the_windows_that_were_measured_again() -> None:
    """They are the noisiest ones. The other windows of this run are those of two single clients, without noise."""
    found = result()
    found.history = [Entry("trial", TUNED, replace(measured(850), noise=0.6), is_repeated=True)]

    assert found.noise == pytest.approx(0.2)


def test_the_record_is_json_without_infinity() -> None:
    """A latency that cannot be measured is null: JSON has no infinity."""
    found = result()
    found.history = [Entry("trial", TUNED, measured(900, holds=False, latency_ms=math.inf))]

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads(record(found, "1"), parse_constant=refuse)

    assert read["settings"] == {"max_batch": 4, "http_workers": 1, "max_queue_size": 64}
    assert read["windows"][0]["latency_ms"] is None
    assert (read["windows"][0]["phase"], read["windows"][0]["settings"]) == ("trial", read["settings"])
    assert read["requests_per_second"] == 850
    assert not read["defaults_are_as_good"]


def test_the_table_has_a_row_for_each_candidate() -> None:
    """A candidate that held nothing has no figures."""
    found = result()
    found.trials[1].add(measured(960, latency_ms=9.5))

    rows = answer.rows(found)

    assert rows[0] == ("900", "none", "", "", "CPU", "defaults")
    assert rows[1] == ("1,200", "960", "9.50", "1.00", "CPU", str(TUNED))
