"""What the tests of the Docker launcher share: images whose notebook servers cost no time."""

from __future__ import annotations

import itertools
import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from binder_backends.docker import DockerLaunchSettings
from binder_core.plugin import LaunchRequest
from engines import images
from engines.docker import DockerEngine
from engines.processes import until

PREFIX = "docker-servers/"
GO = "/tmp/go"

_JUPYTER = """\
#!/usr/bin/env python3
import http.server, os, sys

token = open(os.environ["JUPYTER_TOKEN_FILE"]).read()
port = int([word for word in sys.argv if word.startswith("--port=")][0][7:])
assert "--ip=0.0.0.0" in sys.argv and "--no-browser" in sys.argv
assert os.geteuid() == 0 or "--allow-root" not in sys.argv


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        good = self.headers.get("authorization") == f"token {token}"
        body = b'{"started": "now"}' if good else b"Forbidden"
        self.send_response(200 if good else 403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


try:
    http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
"""
"""In the place of Jupyter: it takes its token from the file, and answers."""

_SLOW = f"while [ ! -e {GO} ]; do sleep 0.05; done"
_NAMES = (f"dl-{secrets.token_hex(4)}-{number}" for number in itertools.count())


def quick(engine: DockerEngine) -> str:
    """Return an image whose server answers at once, as a user of its own."""
    return _image(engine, "quick", "RUN useradd --uid 1234 --create-home jovyan\nUSER jovyan\n")


def linked(engine: DockerEngine) -> str:
    """Return a quick one in which the file that has its user's id is a link to elsewhere."""
    more = "RUN useradd --uid 1234 jovyan && cd /etc && mv passwd there && ln -s there passwd\n"
    return _image(engine, "linked", f"{more}USER jovyan\n")


def slow(engine: DockerEngine) -> str:
    """Return an image whose server answers after `release`."""
    entry = json.dumps(["sh", "-c", f'{_SLOW}; exec "$@"', "entry"])
    return _image(engine, "slow", f"ENTRYPOINT {entry}\n")


def saying(engine: DockerEngine, tag: str, script: str, *, more: str = "") -> str:
    """Return an image in whose server's place a shell script runs."""
    return _image(engine, tag, more, f"#!/bin/sh\n{script}\n")


def _image(engine: DockerEngine, tag: str, more: str, program: str = _JUPYTER) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "jupyter-server").write_text(program)
        (folder / "jupyter-server").chmod(0o755)
        lines = f"FROM {images.DEBIAN_PYTHON}\nCOPY jupyter-server /usr/local/bin/\n{more}"
        (folder / "Dockerfile").write_text(lines)
        return images.build(engine, f"{PREFIX}{tag}:one", folder)


def settings(engine: DockerEngine, **options: Any) -> DockerLaunchSettings:
    return msgspec.convert({"host": engine.host, **options}, DockerLaunchSettings)


def request(image: str) -> LaunchRequest:
    name = next(_NAMES)
    return LaunchRequest(name, image, token=f"t0ken-of-{name}", repo_url="https://u:pw@host/repo")


def release(engine: DockerEngine, name: str) -> None:
    """Let the server of a slow image go on, as soon as there is one."""
    until(lambda: _touched(engine, name), f"no container {name} to let go on", seconds=30)


def _touched(engine: DockerEngine, name: str) -> bool:
    try:
        engine.docker("exec", name, "touch", GO)
    except AssertionError:
        return False
    return True


def servers(engine: DockerEngine, name: str) -> list[Mapping[str, Any]]:
    """Return what the engine tells of the containers of a server."""
    ours = f"label=io.binderkit.server={name}"
    listed = engine.docker("ps", "-aq", "--filter", ours).split()
    found: list[Mapping[str, Any]] = json.loads(engine.docker("inspect", *listed)) if listed else []
    return found


def left(engine: DockerEngine, name: str) -> bool:
    """Return whether there is a container of a server, running or not."""
    return bool(engine.docker("ps", "-aq", "--filter", f"label=io.binderkit.server={name}").split())


def tidy(engine: DockerEngine) -> None:
    """Remove all servers."""
    if found := engine.docker("ps", "-aq", "--filter", "label=io.binderkit.server").split():
        engine.docker("rm", "-f", "-v", *found)


def end(engine: DockerEngine, name: str) -> None:
    """Have a quick server end itself, with status 0, as one does that nobody uses."""
    found = 'case $(cat "$p/comm") in python3|jupyter-server) kill -INT "${p#/proc/}";; esac'
    engine.docker("exec", name, "sh", "-c", f"for p in /proc/[0-9]*; do {found}; done")
