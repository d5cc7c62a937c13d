"""A real Docker engine of the tests' own, from Debian's ``docker.io``, beside any other one.

It has its own socket, folders, bridge and addresses, and what it leaves when it is stopped is the
folder with its images, for the next session. Start: 0.3 s, restart: 1.2 s; 10 s more where a
container overlooks SIGTERM (measured, two cores).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engines.certificates import Authority
from engines.network import BLOCKS, Bridge, free_block, remove
from engines.processes import kill, running, until

_PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc")
_CAP_SYS_RESOURCE = 24
_TLS_PORT = 2376
# Whoever may not lower OOM scores cannot start what asks for it, as each pod of Kubernetes does.
_CLAMPING_RUNTIME = """\
#!/bin/sh
bundle=
previous=
for word in "$@"; do
  case "$previous" in --bundle|-b) bundle=$word ;; esac
  previous=$word
done
if [ -n "$bundle" ]; then
  sed -i -E 's/"oomScoreAdj": *-[0-9]+/"oomScoreAdj":0/' "$bundle/config.json"
fi
exec runc "$@"
"""


class DockerEngine:
    """An engine; a context that starts and stops it.

    Args:
        folder: Where its images are, kept from session to session. It belongs to one engine at a
            time: see `processes.one_of`.
        number: Tells engines of one machine apart that are started at the same moment.
        clamp_oom_score: Whether containers that ask for a lower OOM score start without it; by
            default if this process may not lower it.
        authority: Whom it trusts: it listens on its bridge's address, too, with TLS.
    """

    def __init__(
        self,
        folder: Path,
        *,
        number: int = 0,
        clamp_oom_score: bool | None = None,
        authority: Authority | None = None,
    ) -> None:
        self.folder = folder
        # Made from the folder's name: so what a killed session left is found.
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        # Not below the folder: the path of a socket has an upper bound of 107 bytes.
        self._run = Path(tempfile.gettempdir()) / f"binderkit-docker-{digest}"
        self._number = number
        self._name = f"bkt{digest}"
        self._bridge: Bridge | None = None
        if clamp_oom_score is None:
            clamp_oom_score = not _may_lower_oom_score()
        self._clamp = clamp_oom_score
        self.authority = authority
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Return where it listens."""
        return self._run / "docker.sock"

    @property
    def host(self) -> str:
        """Return what ``DOCKER_HOST`` is for its clients."""
        return f"unix://{self.socket}"

    @property
    def tcp_host(self) -> str:
        """Return what ``DOCKER_HOST`` is for clients elsewhere that its authority knows."""
        assert self.authority is not None, "it listens on its socket alone"
        return f"tcp://{self.address}:{_TLS_PORT}"

    @property
    def bridge(self) -> Bridge:
        """Return the network of its containers."""
        assert self._bridge is not None, "the engine was not started"
        return self._bridge

    @property
    def address(self) -> str:
        """Return this machine's address on the bridge. Registries there may speak plain HTTP."""
        return self.bridge.address

    @property
    def log(self) -> Path:
        """Return what the engine prints."""
        return self.folder / "dockerd.log"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of a client: this engine, and nobody's logins."""
        ours = {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self._run / "client")}
        foreign = ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION")
        return {key: value for key, value in os.environ.items() if key not in foreign} | ours

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers. It has no containers and no images of earlier tests.

        Raises:
            AssertionError: It does not start; with the end of its log.
        """
        self.stop()
        self._run.mkdir(mode=0o700, exist_ok=True)
        (self._run / "client").mkdir(exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bridge = self._new_bridge()
        self._bridge.create()
        self.log.unlink(missing_ok=True)
        # Networks of an earlier session: their addresses may be somebody's by now.
        (self.folder / "data" / "network" / "files" / "local-kv.db").unlink(missing_ok=True)
        try:
            self._start()
            self._tidy()
        except BaseException:
            self.stop()
            raise

    def restart(self, *, orderly: bool = True) -> None:
        """Stop it and start it again: its containers are stopped, and still there.

        Args:
            orderly: Whether it is asked to end, or killed.
        """
        if orderly:
            self._terminate()
        else:
            self.kill()
        self._start()

    def kill(self) -> None:
        """Kill the engine alone, as when it crashes: `restart` or `stop` see to its containers."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None
        # Its containerd dies with it. A next engine that came too early, or found the number that
        # this one left, would wait for it rather than start one; whoever supervises it waits, too.
        kill(running(lambda command: self._ours(command, ("containerd",)), children=False))
        (self._run / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def resume(self) -> None:
        """Start it again after `kill`."""
        self._start()

    def stop(self) -> None:
        """Stop it with its containers; all that is left is its folder. Also what others left."""
        self._terminate()
        kill(running(self._ours))
        for mount in reversed(self._mounts()):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        for group in self._groups():
            group.rmdir()
        remove(self._name)
        shutil.rmtree(self._run, ignore_errors=True)

    def left_behind(self) -> list[str]:
        """Return what should not be there when the engine is stopped."""
        processes = [str(process) for process in running(self._ours)]
        folders = [str(self._run)] if self._run.exists() else []
        groups = [str(group) for group in self._groups()]
        return processes + self._mounts() + self.bridge.left_behind() + folders + groups

    def answers(self) -> bool:
        """Return whether it takes requests."""
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
        return False

    def docker(
        self,
        *arguments: str,
        given: bytes | None = None,
        timeout: float = 120,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run Docker's command against this engine and return what it prints.

        Raises:
            AssertionError: It failed; with what it said.
        """
        done = subprocess.run(
            ["docker", *arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**self.environment, **(environment or {})},
        )
        said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {said[-5000:]}"
        return done.stdout.decode()

    def inspect(self, name: str) -> dict[str, Any] | None:
        """Return what the engine says of a container or an image, None if there is none."""
        known = self.docker("ps", "--all", "--format", "{{.ID}} {{.Names}}").split()
        known += self.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").split()
        if name not in known:
            return None
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def _start(self) -> None:
        settings: dict[str, object] = {
            "hosts": [self.host],
            "data-root": str(self.folder / "data"),
            "exec-root": str(self._run / "exec"),
            "pidfile": str(self._run / "docker.pid"),
            "bridge": self.bridge.name,
            "iptables": False,
            "default-address-pools": [{"base": str(self.bridge.pool), "size": 24}],
            # Those of all engines here: one may launch what a node of a cluster has built.
            "insecure-registries": [str(BLOCKS)],
            "shutdown-timeout": 5,
            **self._settings(),
        }
        if self._clamp:
            runtime = self._run / "runtime"
            runtime.write_text(_CLAMPING_RUNTIME)
            runtime.chmod(0o755)
            settings["runtimes"] = {"clamping": {"path": str(runtime)}}
            settings["default-runtime"] = "clamping"
        config = self._run / "daemon.json"
        config.write_text(json.dumps(settings))
        # One who was killed left it; its number may be another process's by now.
        (self._run / "docker.pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within(), "dockerd", "--config-file", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._up, "the engine does not answer", seconds=60)

    def _new_bridge(self) -> Bridge:
        return Bridge(self._name, free_block(self._number))

    def _settings(self) -> dict[str, object]:
        """Return more of the engine's configuration."""
        if self.authority is None:
            return {}
        certificates = self.authority.server(self._run / "tls", self.address)
        return {
            "hosts": [self.host, self.tcp_host],
            "tlsverify": True,
            "tlscacert": str(certificates / "ca.pem"),
            "tlscert": str(certificates / "cert.pem"),
            "tlskey": str(certificates / "key.pem"),
        }

    def _within(self) -> list[str]:
        """Return the command that runs another where the engine is to be."""
        return []

    def _up(self) -> bool:
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"dockerd ended with {status}:\n{self.log.read_text()[-5000:]}"
        return self.answers()

    def _terminate(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def _tidy(self) -> None:
        """Remove what earlier sessions left in the folder, but for images named `…:test`."""
        if containers := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *containers)
        self.docker("network", "prune", "--force")
        self.docker("volume", "prune", "--force")
        names = self.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        strange = [name for name in names if "/" in name or not name.endswith((":test", ":<none>"))]
        if strange:
            self.docker("rmi", "--force", *strange)
        self.docker("image", "prune", "--force")

    def _ours(self, command: list[str], programs: tuple[str, ...] = _PROGRAMS) -> bool:
        # dockerd and containerd have a file of ours as an argument, a shim the socket.
        return Path(command[0] if command else "").name in programs and any(
            word.startswith(f"{self._run}/") for word in command[1:]
        )

    def _groups(self) -> list[Path]:
        """Return the control groups of containers: what kills an engine leaves them, empty."""
        ids = [path.name for path in (self.folder / "data" / "containers").glob("*")]
        found = [Path("/sys/fs/cgroup").glob(f"**/docker/{each}") for each in ids]
        return [group for groups in found for group in groups]

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        ours = (f"{self._run}/", f"{self.folder.resolve()}/data")
        return [point for point in points if point.startswith(ours)]


def _may_lower_oom_score() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)
