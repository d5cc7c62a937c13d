"""One host with an engine, a registry and a hub, and ``binder serve`` processes that use them.

What costs no time is in the place of what does: a script in that of repo2docker, and a notebook
server of a few lines of shell. Both can be held at a gate.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import tomli_w
from real_server import Heard, RealServer, nested

from engines import images
from engines.docker import DockerEngine
from engines.jupyterhub import JupyterHub
from engines.registry import Registry

PREFIX: Final = "whole-way-"
"""What the names of all images here begin with."""
LINES: Final = 60
"""How many lines the script prints before, and again behind its gate."""
HELD: Final = "It holds here."
HELD_EARLY: Final = "It holds here, and has fetched nothing."
DONE: Final = "The image is there."

_GATES: Final = f"{PREFIX}gates"
_SERVER: Final = f"{PREFIX}server:test"
_SLOW_SERVER: Final = f"{PREFIX}slow-server:test"

# Who holds where is said by the URL: https://example.org/<where>/<name>.
SCRIPT: Final = f"""
for word; do case "$word" in --image-name=*) image=${{word#*=}} ;; esac; url=$word; done
say() {{ printf '{{"message": "%s\\\\n", "phase": "%s"}}\\n' "$1" "$2" >&2; }}
gate() {{
  until docker image inspect "{_GATES}:${{url##*/}}" >/dev/null 2>&1; do sleep 0.1; done
}}
count() {{ i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); say "$1 $i" building; done; }}
say "Cloning $url" fetching
case "$url" in */fetching/*) say "{HELD_EARLY}" fetching; gate ;; esac
count early
case "$url" in */building/*) say "{HELD}" building; gate ;; esac
count late
from={_SERVER}
case "$url" in */launching/*) from={_SLOW_SERVER} ;; esac
# (The name is there for the engine's cache: no two builds are the same.)
big="dd if=/dev/urandom of=/${{url##*/}} bs=1M count=4 2>/dev/null"
printf 'FROM %s\\nRUN %s\\n' $from "$big" |
  DOCKER_BUILDKIT=0 docker build --quiet --tag "$image" - >/dev/null 2>&1 || exit 3
say "{DONE}" building
"""
"""In the place of repo2docker: it logs as that does, and makes an image of 4 MB in no time."""

_GO: Final = "/tmp/go"
_JUPYTER: Final = f"""\
#!/bin/sh
for word; do case "$word" in --port=*) port=${{word#*=}} ;; esac; done
until [ -e {_GO} ]; do sleep 0.05; done
exec nc -ll -p "$port" -e /bin/answer
"""
_ANSWER: Final = """\
#!/bin/sh
token=$(cat "$JUPYTER_TOKEN_FILE")
status="403 Forbidden" body="{}"
while read -r line; do
  line=$(printf %s "$line" | tr -d '\\r')
  [ -n "$line" ] || break
  case "$line" in
    [Aa]uthorization:" token $token") status="200 OK" body='{"started": "now"}' ;;
  esac
done
printf 'HTTP/1.1 %s\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n%s' \\
  "$status" ${#body} "$body"
"""


class DockerHost:
    """The host.

    Args:
        engine: Its engine.
        builder_image: With the runner.
        folder: Its own.
    """

    def __init__(self, engine: DockerEngine, builder_image: str, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._builder_image = builder_image
        self._key = secrets.token_hex(16)
        self._servers: list[RealServer] = []
        make_servers(engine)

    def settings(self, registry: Registry, hub: JupyterHub | None = None) -> dict[str, object]:
        """Return the settings of a server that pushes to `registry`.

        Args:
            registry: Where to.
            hub: What launches; without, the engine does.
        """
        chosen: dict[str, object] = {
            "security.auth": "token",
            "security.key": self._key,
            "builder.kind": "docker",
            "builder.image_prefix": f"{registry.address}/{PREFIX}",
            "builder.docker.host": self.engine.host,
            "builder.docker.builder_image": self._builder_image,
            "builder.docker.repo2docker": ["sh", "-c", SCRIPT, "script"],
            "builder.docker.push": True,
            "builder.docker.registry.read_docker_config": False,
            "launcher.kind": "docker",
            "launcher.docker.host": self.engine.host,
            "asker.allow_networks": [str(self.engine.bridge.block)],
            "providers.git.schemes": ["http", "https"],
        }
        if hub is not None:
            chosen |= {
                "launcher.kind": "jupyterhub",
                "launcher.jupyterhub.url": hub.url,
                "launcher.jupyterhub.api_url": hub.api_url,
                "launcher.jupyterhub.token": hub.token,
            }
        return chosen

    def server(self, settings: Mapping[str, object]) -> RealServer:
        """Start a server."""
        server = RealServer(self.folder / f"server-{len(self._servers)}", settings)
        self._servers.append(server)
        server.start()
        return server

    def refusal(self, settings: Mapping[str, object]) -> str:
        """Return what a server says that does not start."""
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        config = folder / "binder.toml"
        settings = {"server.port": 0, "server.state_dir": str(folder), **settings}
        config.write_text(tomli_w.dumps(nested(settings)))
        done = subprocess.run(
            [sys.executable, "-m", "binder_http.cli", "serve", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    def close(self) -> None:
        """Stop the servers, and remove all that was made."""
        for server in self._servers:
            server.stop()
        for label in ("build", "server"):
            self._remove(f"label=io.binderkit.{label}")
        for name in self._images():
            self._remove(f"ancestor={name}")
        if names := self._images():
            self.engine.docker("rmi", "-f", *names)
        for server in self._servers:
            assert server.left_behind() == []

    # -- Gates -------------------------------------------------------------------------------------

    def open_gate(self, repo: Repo) -> None:
        """Let the build of a repository go on."""
        self.engine.docker("tag", _SERVER, f"{_GATES}:{repo.name}")

    def let_answer(self, image: str) -> None:
        """Let the notebook servers of an image answer."""
        for container in self.running(image):
            self.engine.docker("exec", container, "touch", _GO)

    # -- What there is -----------------------------------------------------------------------------

    def builds(self, repo: Repo) -> list[Mapping[str, Any]]:
        """Return the containers of all builds of a repository, ended ones too."""
        return self.containers(f"io.binderkit.repo={repo.url}")

    def running_build(self, repo: Repo) -> bool:
        """Return whether a build of a repository runs."""
        return any(each["State"]["Running"] for each in self.builds(repo))

    def running(self, image: str) -> list[str]:
        """Return the containers of an image that run."""
        return self.engine.docker("ps", "-q", "--filter", f"ancestor={image}").split()

    def containers(self, label: str) -> list[Mapping[str, Any]]:
        """Return what the engine tells of the containers with a label."""
        listed = self.engine.docker("ps", "-aq", "--filter", f"label={label}").split()
        found: list[Mapping[str, Any]] = (
            json.loads(self.engine.docker("inspect", *listed)) if listed else []
        )
        return found

    def _remove(self, which: str) -> None:
        if found := self.engine.docker("ps", "-aq", "--filter", which).split():
            self.engine.docker("rm", "-f", "-v", *found)

    def _images(self) -> list[str]:
        listed = self.engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        kept = {_SERVER, _SLOW_SERVER}
        return [name for name in listed if PREFIX in name and name not in kept]


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository that is none, but for the script.

    Args:
        holds: The phase in which its build or its launch holds; empty: none.
    """

    holds: str
    name: str

    @property
    def url(self) -> str:
        return f"https://example.org/{self.holds or 'quick'}/{self.name}"

    @property
    def spec(self) -> str:
        return f"git/{quote(self.url, safe='')}/{'1' * 40}"


def make_servers(engine: DockerEngine) -> str:
    """Make the images with the notebook server; return the one that answers at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in (("jupyter-server", _JUPYTER), ("answer", _ANSWER)):
            (folder / file).write_text(text)
            (folder / file).chmod(0o755)
        lines = f"FROM {images.BUSYBOX}\nCOPY jupyter-server answer /bin/\n"
        (folder / "Dockerfile").write_text(lines)
        images.build(engine, _SLOW_SERVER, folder)
        (folder / "Dockerfile").write_text(f"{lines}RUN touch {_GO}\n")
        return images.build(engine, _SERVER, folder)


def repo(holds: str = "") -> Repo:
    """Return a repository that nobody has asked for yet."""
    return Repo(holds, secrets.token_hex(6))


def in_registry(registry: Registry, image: str) -> bool:
    """Return whether the registry has an image."""
    name, _, tag = image.partition("/")[2].rpartition(":")
    asked = urllib.request.Request(f"{registry.url}/v2/{name}/manifests/{tag}", method="HEAD")
    asked.add_header("accept", "application/vnd.docker.distribution.manifest.v2+json")
    try:
        with urllib.request.urlopen(asked, timeout=10) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False


def phases(heard: list[Heard]) -> list[str]:
    """Return the phases that were gone through."""
    told = [one.phase for one in heard]
    return [phase for n, phase in enumerate(told) if n == 0 or told[n - 1] != phase]


def image_of(heard: list[Heard]) -> str:
    """Return the name of the image that was built."""
    (built,) = [one for one in heard if one.phase == "built"]
    return str(built.data["imageName"])


def expect_whole_log(heard: list[Heard]) -> None:
    """Fail the test unless the log of the script's build came, each line once and in order."""
    told = [one for one in heard if one.phase in {"fetching", "building", "pushing"}]
    runs, numbers = zip(*(one.id.split(".") for one in told), strict=True)
    assert len(set(runs)) == 1
    assert [int(n) for n in numbers] == list(range(1, len(told) + 1))
    counted = [one.message for one in told if one.message.startswith(("early ", "late "))]
    assert counted == [f"{when} {n}\n" for when in ("early", "late") for n in range(1, LINES + 1)]


def expect_growth(heard: list[Heard], *, at_least: int) -> None:
    """Fail the test unless the bytes of layers grow, one of them large, and all end in words."""
    states = [one.data["progress"] for one in heard if one.data.get("progress")]
    totals, moved = [], 0
    for layer, end in states[-1].items():
        assert end in {"Pushed", "Layer already exists"}, states[-1]
        seen = [state[layer] for state in states if isinstance(state.get(layer), dict)]
        counts = [state["current"] for state in seen]
        assert counts == sorted(counts)
        assert all(0 <= state["current"] <= state["total"] for state in seen)
        totals += [state["total"] for state in seen]
        moved = max(moved, len(set(counts)))
    assert max(totals) >= at_least
    assert moved > 1
