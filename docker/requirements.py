"""Print the requirements of pyproject.toml and of the named extras: `python requirements.py cpu export`."""
# ruff: noqa: INP001  a script, not part of a package

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [project["optional-dependencies"][extra] for extra in sys.argv[1:]]
sys.stdout.writelines(f"{requirement}\n" for part in (project["dependencies"], *extras) for requirement in part)
