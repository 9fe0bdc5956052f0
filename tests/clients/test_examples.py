"""The examples of `docs/reference/protocols.md` run as they are, each with the client that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load.served import START_SECONDS
from tests.clients.clients import NO_NETWORK, ROOT, Services

PAGE = (ROOT / "docs/reference/protocols.md").read_text()

# The language, the environment and the text of each block that is marked as runnable.
EXAMPLES = re.findall(r"^```(python|sh) runnable ?(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("language", "environment", "text"), EXAMPLES, ids=[text[:60] for *_, text in EXAMPLES])
def test_an_example_runs(services: Services, tmp_path: Path, language: str, environment: str, text: str) -> None:
    """The example ends without an error, in a folder that has the demonstration bundle."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    folder = ROOT / ".venv" / environment / "bin"
    if environment in {"", "huggingface"}:
        folder = Path(sys.executable).parent
    assert folder.exists(), f"{folder} is missing; run `make clients`, which installs it"
    address, rpc_address = services.alone.url.removeprefix("http://"), services.alone.grpc_address
    text = text.replace("localhost:8000", address).replace("localhost:8001", rpc_address)
    command = [folder / "python", "-c"] if language == "python" else ["bash", "-euc"]
    result = subprocess.run(  # noqa: S603 (an example of this repository)
        [*command, text.replace("curl ", "curl -fsS ")],
        cwd=tmp_path,
        env=os.environ
        | NO_NETWORK
        | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_client_has_an_example() -> None:
    """At least one example runs with each environment of a client, and one with curl alone."""
    assert {environment for _, environment, _ in EXAMPLES} == {"clients", "mlserver", "huggingface", ""}
