"""Servers as containers: what the engine is asked to create, and what its words about one mean.

The container is named like the server. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from binder_backends.containers import byte_size
from binder_backends.docker.engine import Inspected
from binder_backends.docker.launch_settings import DockerLaunchSettings
from binder_backends.docker.runs import engine_time
from binder_backends.jupyter import both, idle_arguments
from binder_backends.runner.text import strip_userinfo
from binder_core.plugin import LaunchRequest

SERVER_LABEL: Final = "io.binderkit.server"
FOLDER: Final = "/etc/binderkit"
TOKEN_FILE: Final = f"{FOLDER}/token"
"""Where the server reads its token: no listing of the engine's shows what is in a file."""
RESTARTS: Final = {"Name": "on-failure", "MaximumRetryCount": 5}
"""Of a server that has answered once: a crash, or a restart of the engine, does not end it.

One that ends itself, because nobody uses it, does so with status 0, and is not restarted. Neither
would be one that the engine asks to end as the engine stops: so it does not ask (``StopSignal``).
"""

_PORT: Final = "8888/tcp"
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked for
# What there is differs from image to image, so it is found out in the container.
_FIRST_OF: Final = """\
for program in jupyter-lab jupyter-notebook jupyter-server; do
  if command -v "$program" >/dev/null 2>&1; then exec "$program" "$@"; fi
done
echo "There is no jupyter-lab, jupyter-notebook or jupyter-server in this image." >&2
exit 127"""


@dataclass(frozen=True, slots=True)
class Server:
    """A container of a server, as the engine told it."""

    container: str
    """Its id."""
    name: str
    """The server's, and so the container's."""
    state: str
    """``created``, ``running``, ``exited`` …"""
    port: int
    """Where it is published; 0 if it is not, yet or any more."""
    user: str
    """Whom its image runs as: a name, a number, or nothing."""
    exit_code: int
    out_of_memory: bool
    restarts: bool
    """Whether the engine starts it again when it crashes; not before it has answered once."""
    started: float
    """When it was started last; 0: never."""
    ended: float
    """When it ended; seconds since the epoch, 0 if it has not."""
    created: float

    @property
    def fresh(self) -> bool:
        """Return whether it was never started."""
        return self.state == "created"

    @property
    def over(self) -> bool:
        """Return whether it has ended."""
        return self.state in ("exited", "dead", "removing")


def read_server(said: Inspected) -> Server | None:
    """Return the server that an inspected container is, None if it is none of ours."""
    labels = said["Config"].get("Labels") or {}
    name = said["Name"].removeprefix("/")
    # The label alone is no proof: whoever builds an image may give it one.
    if labels.get(SERVER_LABEL) != name:
        return None
    state = said["State"]
    over = state["Status"] in ("exited", "dead", "removing")
    policy = said["HostConfig"].get("RestartPolicy") or {}
    return Server(
        container=said["Id"],
        name=name,
        state=state["Status"],
        port=_published(said),
        user=said["Config"].get("User") or "",
        exit_code=state.get("ExitCode") or 0,
        out_of_memory=bool(state.get("OOMKilled")),
        restarts=policy.get("Name") == RESTARTS["Name"],
        started=0.0 if state["Status"] == "created" else engine_time(state.get("StartedAt", "")),
        ended=engine_time(state.get("FinishedAt", "")) if over else 0.0,
        created=engine_time(said["Created"]),
    )


def _published(said: Inspected) -> int:
    bound = (said.get("NetworkSettings") or {}).get("Ports") or {}
    asked = said["HostConfig"].get("PortBindings") or {}
    for ports in (bound, asked):
        for binding in ports.get(_PORT) or ():
            if binding.get("HostPort"):
                return int(binding["HostPort"])
    return 0


def server_url(settings: DockerLaunchSettings, port: int, *, this_machine: str) -> str:
    """Return the URL that a server is told by.

    Args:
        settings: The operator's.
        port: Where it is published.
        this_machine: The name that stands for every address.
    """
    address = settings.address
    host = settings.url_host or (this_machine if address in _WILDCARDS else address)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def probed_host(settings: DockerLaunchSettings) -> str:
    """Return where a server is asked whether it answers."""
    return settings.probe_host or _WILDCARDS.get(settings.address, settings.address)


def server_config(
    settings: DockerLaunchSettings, request: LaunchRequest, *, port: int, root: bool
) -> dict[str, Any]:
    """Return what the engine is asked to create. There is no secret in it.

    Args:
        settings: The operator's.
        request: What to launch.
        port: Where to publish it; 0: the engine chooses.
        root: Whether the image runs as root.
    """
    memory = byte_size(settings.memory_limit)
    env = {
        **settings.environment,
        "JUPYTER_TOKEN": "",  # one that the image brings would go before the file
        "JUPYTER_TOKEN_FILE": TOKEN_FILE,
        "JUPYTER_IMAGE_SPEC": request.image,
        "BINDER_REPO_URL": strip_userinfo(request.repo_url),
    }
    return {
        "Image": request.image,
        # The image's own entrypoint stays: it makes the environment ready.
        "Cmd": _command(settings, request.idle_timeout, root=root),
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": {SERVER_LABEL: request.name},
        "ExposedPorts": {_PORT: {}},
        "StopSignal": "SIGKILL",  # see RESTARTS
        # An image's own would be run as often as it likes, and nobody asks for its verdict.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "PortBindings": {
                _PORT: [{"HostIp": settings.address, "HostPort": str(port) if port else ""}]
            },
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": str(settings.server_log_cap_bytes)},
            },
            "Init": True,  # whatever a notebook leaves behind is reaped
            "Memory": memory,
            "MemorySwap": memory,  # with memory: no swap on top of it
            "NanoCpus": round(settings.cpu_limit * 1e9),
            "PidsLimit": settings.pids_limit or None,
            "NetworkMode": settings.network or "default",
            "RestartPolicy": {"Name": "no"},
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": ["ALL"],
            "CapAdd": list(settings.capabilities),
        },
    }


def _command(
    settings: DockerLaunchSettings, idle_timeout: float | None, *, root: bool
) -> list[str]:
    # The short names: those of classes differ from one generation of Jupyter to the next.
    arguments = ["--ip=0.0.0.0", f"--port={_PORT.partition('/')[0]}", "--no-browser"]
    if root:
        arguments.append("--allow-root")
    if settings.allow_origin:
        arguments += both("allow_origin", settings.allow_origin)
    arguments += idle_arguments(settings.idle_timeout if idle_timeout is None else idle_timeout)
    first = settings.command or ("sh", "-c", _FIRST_OF, "jupyter")
    return [*first, *arguments]


def names_user(user: str) -> bool:
    """Return whether an image names its user by a name: only its ``/etc/passwd`` has the id."""
    name = user.partition(":")[0]
    return bool(name) and not name.isdecimal()


def user_of(user: str, passwd: bytes) -> int | None:
    """Return the id of the user that an image names, None if there is no such user.

    Args:
        user: ``jovyan``, ``1000``, ``1000:100`` or nothing, as images have it.
        passwd: The image's ``/etc/passwd``.
    """
    name = user.partition(":")[0]
    if not name:
        return 0
    if name.isdecimal():
        return int(name)
    for line in passwd.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
    return 0 if name == "root" else None
