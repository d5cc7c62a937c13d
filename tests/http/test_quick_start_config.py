"""The files of docs/quick-start.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from binder_backends.docker import DockerLaunchSettings, DockerSettings
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_http.config import load

ROOT = Path(__file__).parents[2]
PATH = ROOT / "deploy" / "quick-start" / "binder.toml"


@pytest.mark.parametrize("launcher", ["jupyterhub", "docker"])
def test_what_is_pushed_can_be_launched(launcher: str) -> None:
    config = load(PATH, env={}, flags={"launcher.kind": launcher})
    assert isinstance(config.builder.settings, DockerSettings)
    assert config.builder.settings.push
    assert config.launcher is not None
    match config.launcher.settings:
        case DockerLaunchSettings(pull=pull):
            assert pull, "an image may be in the registry alone"
        case settings:
            assert isinstance(settings, JupyterHubSettings)


def test_a_builder_that_knows_one_ignore_file_is_sent_what_it_needs() -> None:
    text = (ROOT / ".dockerignore").read_text()
    known = {line for line in text.splitlines() if not line.startswith("#")}
    own = sorted((ROOT / "deploy").glob("*/Dockerfile.dockerignore"))
    assert len(own) == 3
    needed = {line for path in own for line in path.read_text().splitlines()}
    assert needed == known
