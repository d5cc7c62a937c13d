"""Images for builds: ours from ``deploy/builder/Dockerfile``, and what others have.

Measured on two cores, from nothing: the base 1.5 s, ours 11 s, ours with an old repo2docker 7 s,
the stock one 3.5 s; below a second from what is kept.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from engines import images
from engines.buildx import PROGRAMS, docker_programs
from engines.docker import DockerEngine

BUILDER_BASE = "builder-base:test"
REPO2DOCKER = "repo2docker:test"
OLD_REPO2DOCKER = "repo2docker-old:test"
OLD_STOCK_REPO2DOCKER = "repo2docker-stock-old:test"
STOCK_REPO2DOCKER = "repo2docker-stock:test"

_ROOT = Path(__file__).parents[2]
_OLD, _CURRENT = "2024.7.0", "2026.4.0"
_BASE = f"""\
FROM {images.DEBIAN_PYTHON}
COPY . /
"""
# As repo2docker's own: no runner, and the old one has no docker command.
_OLD_STOCK = f"""\
FROM {images.DEBIAN_PYTHON}
RUN pip install --no-cache-dir jupyter-repo2docker=={_OLD} 'setuptools<81'
"""
_STOCK = f"""\
FROM {BUILDER_BASE}
RUN pip install --no-cache-dir jupyter-repo2docker=={_CURRENT}
"""


def builder_base(engine: DockerEngine, cache: Path) -> str:
    """See to it that the engine has `BUILDER_BASE`: what a build's image is made from."""
    programs = docker_programs(cache)
    plugins = Path(engine.environment["DOCKER_CONFIG"]) / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    shutil.copy2(programs / PROGRAMS[1], plugins)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in PROGRAMS:
            (folder / program).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(programs / program, folder / program)
        (folder / "Dockerfile").write_text(_BASE)
        (folder / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
        return images.build(engine, BUILDER_BASE, folder)


def repo2docker(engine: DockerEngine) -> str:
    """See to it that the engine has `REPO2DOCKER`: our image as operators make it."""
    return _ours(engine, REPO2DOCKER)


def old_repo2docker(engine: DockerEngine) -> str:
    """See to it that the engine has `OLD_REPO2DOCKER`: the last that used no buildx."""
    return _ours(engine, OLD_REPO2DOCKER, "--build-arg", f"REPO2DOCKER={_OLD}")


def old_stock_repo2docker(engine: DockerEngine) -> str:
    """See to it that the engine has `OLD_STOCK_REPO2DOCKER`: an old one, without our runner."""
    return _stock(engine, OLD_STOCK_REPO2DOCKER, _OLD_STOCK)


def stock_repo2docker(engine: DockerEngine) -> str:
    """See to it that the engine has `STOCK_REPO2DOCKER`: a current one, without our runner."""
    return _stock(engine, STOCK_REPO2DOCKER, _STOCK)


def _stock(engine: DockerEngine, image: str, dockerfile: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(dockerfile)
        return images.build(engine, image, Path(folder))


def _ours(engine: DockerEngine, image: str, *options: str) -> str:
    # With buildx: the Dockerfile has an ignore file of its own, which the old builder overlooks.
    engine.docker(
        *("buildx", "build", "--quiet", "--tag", image, "--build-arg", f"BASE={BUILDER_BASE}"),
        *("--file", str(_ROOT / "deploy/builder/Dockerfile"), *options, str(_ROOT)),
        timeout=900,
    )
    return image
