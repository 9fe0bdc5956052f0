"""The examples of the client's README run."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.fake_server import fake_server, reply
from tests.support.served import Served

ROOT = Path(__file__).parents[2]
README = ROOT / "clients/python/README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
# The texts that each example prints, among others.
EXPECTED = (
    ["seven\n7 seven 0.9152"],
    ["seven Evidence(logit=", "bytes of PNG for class 7"],
    ["seven"],
    ["one.png one", "zero.png zero"],
    ["seven", "zero"],
    ["415 unsupported_image"],
)


@pytest.fixture
def addresses(service: Served, seven: Path) -> Iterator[Mapping[str, str]]:
    """The addresses in the examples, and those of a service and of a host that has the image."""
    with fake_server(reply(200, seven.read_bytes())) as host:
        yield {"http://localhost:8000": service.url, "https://example.org": host.url}


@pytest.mark.parametrize(("example", "expected"), [*zip(EXAMPLES, EXPECTED, strict=True)])
def test_an_example_runs(
    example: str,
    expected: list[str],
    addresses: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each block of Python runs in a clone."""
    monkeypatch.chdir(ROOT)
    for written, real in addresses.items():
        example = example.replace(written, real)
    exec(compile(example, str(README), "exec"), {"__name__": "example"})  # noqa: S102 (text of this repository)

    printed = capsys.readouterr().out
    for each in expected:
        assert each in printed
