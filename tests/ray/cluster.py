"""The deployment in a Ray cluster whose processes are below this one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from app.system.ports import free_port
from app.system.processes import process_tree
from benchmarks.load.ray_cluster import ROOT
from benchmarks.load.served import START_SECONDS

FOLDER = ROOT / "deploy" / "ray"

# CPUs of the node, as Ray counts them: room for a replacement beside two replicas.
CPUS = 4

Configuration = dict[str, Any]


class Deployed(NamedTuple):
    """A running deployment."""

    address: tuple[str, int]  # of Ray's proxy
    handle: Any  # ray.serve.handle.DeploymentHandle

    @property
    def url(self) -> str:
        """The URL of Ray's proxy."""
        return "http://{}:{}".format(*self.address)


def configuration(name: str) -> Configuration:
    """Return a configuration of `deploy/ray`."""
    read: Configuration = yaml.safe_load((FOLDER / name).read_text())
    return read


def deploy(cluster: str, folder: Path, replicas: int) -> Deployed:
    """Deploy `serve.yaml` as the guide does, on a free port and without autoscaling. `folder` gets a copy of it."""
    from ray import serve  # noqa: PLC0415 (not installed in all environments)

    changed = configuration("serve.yaml")
    changed["http_options"]["port"] = port = free_port()
    (application,) = changed["applications"]
    (deployment,) = application["deployments"]
    del deployment["autoscaling_config"]
    deployment["num_replicas"] = replicas
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(changed))
    command = Path(sys.executable).with_name("serve")
    subprocess.run(  # noqa: S603 (the command that the guide shows)
        [command, "run", "--address", cluster, "--working-dir", FOLDER, "--non-blocking", file],
        timeout=START_SECONDS,
        check=True,
    )
    wait_until(lambda: serve.status().applications[application["name"]].status == "RUNNING")
    return Deployed(("127.0.0.1", port), serve.get_app_handle(application["name"]))


def replicas(application: str = "swin-serve") -> set[int]:
    """Return the process ids of the replicas of an application. The cluster is a child of this process."""
    name = f"ray::ServeReplica:{application}:"
    return {pid for pid in process_tree(os.getpid()) if command_of(pid).startswith(name)}


def command_of(pid: int) -> str:
    """Return the command of a process, or an empty string if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        return ""


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for a state of Ray, which reports no events.

    Raises:
        TimeoutError: the state was not reached in `START_SECONDS`.
    """
    ends = time.monotonic() + START_SECONDS
    while not is_true():
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.1)
