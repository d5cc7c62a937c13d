"""From a plan to the container that an engine makes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from binder_backends.containers import FOLDER, BuildPlan, byte_size
from binder_backends.docker.engine import DEFAULT_SOCKET
from binder_backends.docker.settings import DockerSettings

HANDED_OVER: Final = f"{FOLDER}-handed-over"
"""Where the files of a plan are put before the start: into the container's own file system, since
the engine brings files nowhere else. The container moves them at once into memory (`FOLDER`), and
what is in memory ends with it: whoever looks into the container of an ended build finds none."""
_MOVE: Final = 'mv "$0"/* "$1" && rmdir "$0" && shift && exec "$@"'


def handed_over(plan: BuildPlan) -> Mapping[str, bytes]:
    """Return the files of a plan by where they are put before the start."""
    return {HANDED_OVER + path.removeprefix(FOLDER): data for path, data in plan.files.items()}


def container_config(settings: DockerSettings, plan: BuildPlan, socket: str) -> dict[str, Any]:
    """Return what the engine is asked to create.

    Args:
        settings: The operator's.
        plan: What runs in it.
        socket: The engine's own socket, on its machine.
    """
    memory = byte_size(settings.memory_limit)
    return {
        "Image": settings.builder_image,
        "Entrypoint": ["sh", "-c", _MOVE, HANDED_OVER, FOLDER],
        "Cmd": list(plan.argv),
        "Env": [f"{name}={value}" for name, value in plan.env.items()],
        "Labels": dict(plan.labels),
        "User": "0",  # whom the engine's socket and the files of the plan belong to
        "WorkingDir": "/",
        "HostConfig": {
            # (A bind of the older kind would make a folder where there is no socket.)
            "Mounts": [{"Type": "bind", "Source": socket, "Target": DEFAULT_SOCKET}],
            "Tmpfs": {FOLDER: "mode=0700,size=16m,noexec,nosuid,nodev"},
            # The log is the journal: no line of it may go, whatever the engine's defaults are.
            # The runner keeps it short.
            "LogConfig": {
                "Type": "json-file",
                "Config": {
                    "max-size": str(4 * log_bytes(settings)),
                    "max-file": "2",
                    "compress": "false",
                    "mode": "blocking",
                },
            },
            "Memory": memory,
            "MemorySwap": memory,  # with memory: no swap on top of it
            "NanoCpus": round(settings.cpu_limit * 1e9),
            "PidsLimit": settings.pids_limit or None,
            "NetworkMode": settings.network or "default",
            "RestartPolicy": {"Name": "no"},
            "SecurityOpt": ["no-new-privileges"],
        },
    }


def log_bytes(settings: DockerSettings) -> int:
    """Return how large a log may get, numbers and phases of each line included."""
    return 16 * settings.log_cap_bytes + 2**20
