"""The configuration of docs/quick-start.md, with the hub and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from binder_backends.docker import DockerLaunchSettings, DockerSettings
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_http.config import load

PATH = Path(__file__).parents[2] / "deploy" / "quick-start" / "binder.toml"


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
