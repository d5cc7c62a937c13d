"""Docker's command and buildx as the image for builds has them, from Debian 13's packages.

repo2docker from 2025.8 on builds with ``docker buildx``, which Debian 12 has not. The two programs
need nothing of Debian 13 but the files themselves. Fetched once: 4 s.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from engines.machine import debian_mirror
from engines.processes import locked

_RELEASE, _LATER = "bookworm", "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PACKAGES = ("docker-cli", "docker-buildx")
PROGRAMS = ("usr/bin/docker", "usr/libexec/docker/cli-plugins/docker-buildx")
"""Where the programs are, in the folder and in an image."""


def docker_programs(cache: Path) -> Path:
    """Return a folder with `PROGRAMS`."""
    with locked(cache / "docker-programs.lock"):
        kept = cache / f"docker-programs-{_LATER}"
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
                _fetch(Path(name))
                (Path(name) / "unpacked").rename(kept)
        return kept


def _fetch(folder: Path) -> None:
    # Nothing of this machine's apt is changed: it has its own sources, lists and packages.
    source = f"deb [signed-by={_KEYRING}] {debian_mirror(_RELEASE)} {_LATER} main\n"
    (folder / "sources.list").write_text(source)
    for name in ("state/lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    apt = [
        "apt-get",
        "-q",
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]
    _run([*apt, "update"], folder)
    _run([*apt, "download", *_PACKAGES], folder / "packages")
    for package in (folder / "packages").glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(folder / "all")], folder)
    for program in PROGRAMS:
        target = folder / "unpacked" / program
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / "all" / program, target)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
