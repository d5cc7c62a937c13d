"""Makes the environment that a repository declares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from binder_backends.runner.declared import Declared
from binder_backends.runner.options import LocalRecipe
from binder_backends.runner.recipes import RecipeFailed, Say, Step, StepResult, Todo, must

_CONDAS: Final = ("micromamba", "mamba", "conda")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a build works."""

    repo: Path
    env: Path
    """The environment; made here, and used here for as long as the image exists: neither uv's nor
    conda's can be moved."""
    temporary: Path
    """Removed at the end."""


Steps = Generator[Todo, StepResult | None, None]


def install(recipe: LocalRecipe, declared: Declared, place: Place) -> Steps:
    """Make the environment, run ``postBuild``.

    Raises:
        RecipeFailed: That did not work.
    """
    if declared.environment:
        yield from _conda(declared, place)
    else:
        yield from _uv(recipe, declared, place)
    yield from _jupyter(recipe, place)
    if declared.post_build:
        yield from _post_build(declared.post_build, place)


def _uv(recipe: LocalRecipe, declared: Declared, place: Place) -> Steps:
    python = declared.python or recipe.python
    hint = ""
    if declared.python:
        hint = (
            f"runtime.txt asks for Python {declared.python}, which uv finds neither on this"
            " machine nor among those that it can download."
        )
    elif (place.repo / "pyproject.toml").is_file() or (place.repo / ".python-version").is_file():
        python = ""  # these say which one, and uv reads them
    yield Say(f"Making an environment{f' with Python {declared.python}' * bool(declared.python)}")
    which = ("--python", python) if python else ()
    argv = (recipe.uv, "venv", "--seed", *which, "--", str(place.env))
    yield from must(_step("Making the environment", argv, place, os.environ), hint)
    pip = _pip(recipe, place)
    if declared.requirements:
        what = f"Installing {declared.requirements}"
        yield Say(what)
        yield from must(_step(what, (*pip, "-r", declared.requirements), place, os.environ))
    if declared.project == "pyproject.toml":
        what = "Installing the dependencies in pyproject.toml"
        yield Say(what)
        yield from must(_step(what, (*pip, "-r", "pyproject.toml"), place, os.environ))
    elif declared.project:
        what = "Installing the repository as a package"
        yield Say(what)
        yield from must(_step(what, (*pip, "."), place, os.environ))


def _conda(declared: Declared, place: Place) -> Steps:
    found = (shutil.which(name) for name in _CONDAS)
    program = next((path for path in found if path), None)
    if program is None:
        raise RecipeFailed(
            f"{declared.environment} declares a conda environment, and none of"
            f" {', '.join(_CONDAS)} is on the PATH of this server. Install micromamba, or use"
            ' the docker backend (builder = "docker").'
        )
    what = f"Installing {declared.environment}"
    yield Say(f"{what} with {Path(program).name}")
    # micromamba has `create`, the others know a file only to `env create`.
    command = ("create", "--yes") if Path(program).name == "micromamba" else ("env", "create")
    argv = (program, *command, "--prefix", str(place.env), "--file", declared.environment)
    yield from must(_step(what, argv, place, os.environ))
    if not (place.env / "bin" / "python").exists():
        raise RecipeFailed(
            f"{declared.environment} installs no Python, which Jupyter needs:"
            " add python to its dependencies."
        )


def _jupyter(recipe: LocalRecipe, place: Place) -> Steps:
    missing: tuple[str, ...] = ()
    if not _installed(place.env, "jupyter_server"):
        missing = recipe.jupyter_packages
    kernels = place.env / "share" / "jupyter" / "kernels"
    if not kernels.is_dir() and "ipykernel" not in missing and "jupyterlab" not in missing:
        missing = (*missing, "ipykernel")
    if not missing:
        return
    what = f"Installing Jupyter ({', '.join(missing)})"
    yield Say(what)
    yield from must(_step(what, (*_pip(recipe, place), "--", *missing), place, os.environ))


def _pip(recipe: LocalRecipe, place: Place) -> tuple[str, ...]:
    return (recipe.uv, "pip", "install", "--python", str(place.env / "bin" / "python"))


def _installed(env: Path, module: str) -> bool:
    return any(env.glob(f"lib/python3*/site-packages/{module}"))


def _post_build(path: str, place: Place) -> Steps:
    yield Say(f"Running {path}")
    argv = script(place.repo, path)
    env = activated(os.environ, place.env) | {
        # As in repo2docker, what it puts into its home is there when the server runs.
        "HOME": str(place.repo),
        "XDG_CACHE_HOME": str(place.temporary / "cache"),
    }
    yield from must(_step(f"Running {path}", argv, place, env))


def script(repo: Path, path: str) -> tuple[str, ...]:
    """Return how to run a script of a repository; make it executable if need be."""
    file = repo / path
    with file.open("rb") as stream:
        shebang = stream.read(2) == b"#!"
    if not shebang:
        return ("/bin/sh", str(file))
    # git on some systems forgets the bit, and people too.
    file.chmod(file.stat().st_mode | 0o111)
    return (str(file),)


def activated(ours: Mapping[str, str], env: Path) -> dict[str, str]:
    """Return an environment in which the programs of `env` come first."""
    conda = (env / "conda-meta").is_dir()
    return {
        # What belongs to another home is not for them.
        **{name: value for name, value in ours.items() if not name.startswith("XDG_")},
        "PATH": f"{env / 'bin'}{os.pathsep}{ours.get('PATH', os.defpath)}",
        "CONDA_PREFIX" if conda else "VIRTUAL_ENV": str(env),
    }


def _step(what: str, argv: tuple[str, ...], place: Place, env: Mapping[str, str]) -> Step:
    # Compiled now, by all cores, and not while somebody waits for the first launch.
    env = {"UV_COMPILE_BYTECODE": "1", **env, "TMPDIR": str(place.temporary)}
    return Step(what, argv, cwd=str(place.repo), env=env)
