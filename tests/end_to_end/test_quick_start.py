"""The commands of ``docs/quick-start.md``, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from docker_host import make_servers

from engines.docker import DockerEngine
from engines.git_server import GitServer
from engines.processes import kill, running, until

pytestmark = pytest.mark.real

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "quick-start.md"
PORTS: Final = (5001, 8000, 8001, 8081, 8585)
BASE: Final = "debian:trixie-slim"
"""What the builder's Dockerfile begins with; here that name leads to what the tests have."""
EXAMPLE: Final = "gh/binder-examples/requirements/HEAD"
SERVES: Final = {
    "docker-registry serve": "listening on 127.0.0.1:5001",
    "hub/bin/jupyterhub": "JupyterHub is now running at http://127.0.0.1:8000/",
    "binder serve": "Binder is at http://127.0.0.1:8585/?token=",
}
"""What goes on when it was started, and what it says when it answers."""
RID_OF_IT: Final = "## To be rid of it"
"""Where Ctrl-C is pressed."""
LINK: Final = re.compile(r"Binder is at (\S+)")


class Terminal:
    """Runs what is typed, each line in a shell that knows what was exported before."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self.home = home
        self._env = home / "env"
        exports = [f"export {name}={shlex.quote(value)}\n" for name, value in env.items()]
        self._env.write_text("".join(exports) + f"cd {shlex.quote(str(ROOT))}\n")
        self._served: list[tuple[subprocess.Popen[bytes], Path]] = []

    def type(self, line: str) -> str:
        """Run a line and return what it prints; what serves goes on when it answers."""
        if line.startswith(("cd ", "export ", "mkdir ")):
            with self._env.open("a") as file:
                file.write(line + "\n")
            return ""
        argv = ["bash", "-c", f'set -euo pipefail\n. "{self._env}"\n{line}']
        if any(words in line for words in SERVES):
            log = self.home / f"served-{len(self._served)}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    # Whatever runs the tests in the background may have it ignored.
                    ["env", "--default-signal=INT", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=_clean(),
                    start_new_session=True,
                )
            self._served.append((process, log))
            until(lambda: self._answers(line, log), f"{line}: {log.read_text()}", seconds=60)
            return log.read_text()
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            env=_clean(),
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}{self.logs()}"
        return done.stdout

    def _answers(self, line: str, log: Path) -> bool:
        assert all(process.poll() is None for process, _ in self._served), self.logs()
        (said,) = [said for words, said in SERVES.items() if words in line]
        return said in log.read_text()

    def logs(self) -> str:
        """Return the ends of what serves printed."""
        return "".join(f"\n{log.name}:\n{log.read_text()[-3000:]}" for _, log in self._served)

    def interrupt(self) -> None:
        """Press Ctrl-C wherever something serves, the last one first."""
        while self._served:
            process, log = self._served.pop()
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(
                    f"Ctrl-C does not end it:\n{log.read_text()[-3000:]}"
                ) from None

    def close(self) -> None:
        """Leave nothing that runs."""
        try:
            self.interrupt()
        finally:
            kill(running(lambda argv: any(str(self.home) in word for word in argv)))


@pytest.fixture
def terminal(
    require: Callable[..., str], docker_engine: DockerEngine, builder_base: str, tmp_path: Path
) -> Iterator[Terminal]:
    for program in ("docker-registry", "git", "npm", "openssl", "curl", "bash"):
        require(program, f"apt-get install {program}")
    require("the ports of the quick start", "stop what listens there", there=_free(PORTS))
    docker_engine.docker("tag", builder_base, BASE)
    env = {
        "HOME": str(tmp_path),
        "DOCKER_HOST": docker_engine.host,
        "DOCKER_CONFIG": docker_engine.environment["DOCKER_CONFIG"],
        # Repositories of this machine: the page's example is on the internet.
        "BINDER_ASKER__ALLOW_NETWORKS": str(docker_engine.bridge.block),
        "BINDER_PROVIDERS__GIT__SCHEMES": "http,https",
    }
    made = Terminal(tmp_path, env)
    yield made
    made.close()
    docker_engine.docker("rmi", BASE)


def _free(ports: tuple[int, ...]) -> bool:
    for port in ports:
        with socket.socket() as taken:
            if taken.connect_ex(("127.0.0.1", port)) == 0:
                return False
    return True


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BINDER")}


def commands(text: str) -> list[str]:
    """Return what a text says to type."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.usefixtures("busybox_image")
def test_the_quick_start_as_it_is_written(
    terminal: Terminal, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    image = make_servers(docker_engine)
    link, said = "", []
    with GitServer(tmp_path / "git", docker_engine.address) as git:
        dockerfile = f"FROM {image}\nRUN echo a line of the Dockerfile\n"
        url, _ = git.repository("requirements", {"Dockerfile": dockerfile})
        use, end = PAGE.read_text().split(RID_OF_IT)
        for line in commands(use):
            if line.startswith("sudo "):
                continue  # what a machine needs before: `.ci/run` sees to it
            typed = line.replace("http://127.0.0.1:8585/?token=…", link)
            printed = terminal.type(typed.replace(EXAMPLE, f"git/{quote(url, safe='')}/HEAD"))
            if found := LINK.search(printed):
                link = found[1]
            said.append((line, printed))

    terminal.interrupt()
    for line in commands(end):
        terminal.type(line)
    assert not (terminal.home / "binder").exists()
    left = docker_engine.docker("ps", "-aq", "--filter", "label=io.binderkit.build")
    left += docker_engine.docker("ps", "-aq", "--filter", "name=^jupyter-")
    assert left + docker_engine.docker("images", "--quiet", "127.0.0.1:5001/binder-*") == ""

    def printed_by(words: str) -> list[str]:
        return [printed for line, printed in said if words in line]

    assert '"ok":true' in printed_by("health")[0]
    first, second = printed_by("binder launch")
    assert "a line of the Dockerfile" in first
    assert "Successfully pushed 127.0.0.1:5001/binder-" in first
    assert "Found built image" in second
    for printed in (first, second):
        assert re.search(r"http://127\.0\.0\.1:8000/user/\S+\?token=\S+", printed)
    assert "requirements" in printed_by("binder builds")[0]
    assert printed_by("docker ps")[0].count(" jupyter-") == 2
    assert '"phase":"ready"' in printed_by("event-stream")[0]
