"""What a repository declares, read as repo2docker reads it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from binder_backends.runner.recipes import RecipeFailed

_FOLDERS: Final = ("binder", ".binder")

_DOCKER: Final = 'The docker backend (builder = "docker") can build this repository.'

_UNSUPPORTED: Final = {
    "Dockerfile": "says how to build a container image",
    "Project.toml": "declares a Julia environment",
    "JuliaProject.toml": "declares a Julia environment",
    "REQUIRE": "declares Julia packages",
    "default.nix": "declares a Nix environment",
    "install.R": "installs R packages",
    "apt.txt": "asks for system packages",
    "Pipfile": "declares a Pipenv environment",
    "Pipfile.lock": "declares a Pipenv environment",
}

_PYTHON: Final = re.compile(r"python-(\d+(?:\.\d+){0,2})")
_MAX_FILE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Declared:
    """What the repository asks for. Paths are relative to its root."""

    folder: str
    """Where its configuration files are: ``binder``, ``.binder`` or ``.``."""
    environment: str = ""
    """The ``environment.yml``; it wins over what pip would install."""
    requirements: str = ""
    project: str = ""
    """How pip gets the project itself: ``.`` to install it, ``pyproject.toml`` for its
    dependencies alone."""
    python: str = ""
    """The Python version that is asked for."""
    post_build: str = ""
    start: str = ""
    notices: tuple[str, ...] = ()


def read_declared(repo: Path) -> Declared:
    """Return what the repository in `repo` declares.

    Raises:
        RecipeFailed: It contradicts itself, or asks for what only another backend can give.
    """
    folder = _configuration_folder(repo)

    def path_of(name: str) -> str:
        path = name if folder == "." else f"{folder}/{name}"
        return path if (repo / path).is_file() else ""

    for name, purpose in _UNSUPPORTED.items():
        if path := path_of(name):
            raise RecipeFailed(f"{path} {purpose}, which the local backend cannot do. {_DOCKER}")
    notices = []
    if (path := path_of("environment.yaml")) and not path_of("environment.yml"):
        notices.append(f"{path} is not read: the name that counts is environment.yml")
    environment = path_of("environment.yml")
    return Declared(
        folder=folder,
        environment=environment,
        requirements="" if environment else path_of("requirements.txt"),
        # As in repo2docker: who keeps a binder/ folder says there what is to be installed.
        project="" if environment or folder != "." else _project(repo),
        python=_runtime(repo, path_of("runtime.txt")),
        post_build=path_of("postBuild"),
        start=path_of("start"),
        notices=tuple(notices),
    )


def _configuration_folder(repo: Path) -> str:
    found = [name for name in _FOLDERS if (repo / name).is_dir()]
    if len(found) > 1:
        raise RecipeFailed(
            "The repository has both a binder/ and a .binder/ folder, and only one of them can"
            " count. Remove one."
        )
    return found[0] if found else "."


def _project(repo: Path) -> str:
    file = repo / "pyproject.toml"
    if file.is_file():
        try:
            tables = tomllib.loads(_text(file))
        except tomllib.TOMLDecodeError as error:
            raise RecipeFailed(f"pyproject.toml is no valid TOML: {error}.") from error
        if "build-system" in tables:
            return "."
        if "project" in tables and not (repo / "setup.py").is_file():
            # No build system: an application, not a package. Only what it needs is installed.
            return "pyproject.toml"
    return "." if (repo / "setup.py").is_file() else ""


def _runtime(repo: Path, path: str) -> str:
    if not path:
        return ""
    words = _text(repo / path).strip()
    shown = words[:60]
    if words.startswith("r-"):
        raise RecipeFailed(f"{path} asks for R ({shown}), which the local backend lacks. {_DOCKER}")
    found = _PYTHON.fullmatch(words)
    if found is None:
        raise RecipeFailed(f"{path} says {shown!r}: expected a version such as python-3.12.")
    version = found[1]
    if version.split(".")[0] != "3":
        raise RecipeFailed(
            f"{path} asks for Python {version}: the local backend has Python 3 only."
            " Try a version such as python-3.12."
        )
    return "" if version == "3" else version


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
