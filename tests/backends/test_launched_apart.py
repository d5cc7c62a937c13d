"""What launchers know beyond `launch`: one server's idle time, whether it is there, preloading."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from local_repos import FAKE_JUPYTER, Quiet, made_image, processes_with

from binder_backends.fake import FakeEngine, FakeLauncher
from binder_backends.fake.scripts import LauncherSettings
from binder_backends.local import LocalLauncher, LocalLaunchSettings
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest

pytestmark = pytest.mark.anyio

REQUEST = LaunchRequest("a-server", "an-image", "t0ken-that-nobody-guesses")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # processes cost time


def local(folder: Path, **changes: object) -> LocalLauncher:
    folders = {"cache_dir": str(folder / "cache"), "state_dir": str(folder / "state")}
    return LocalLauncher(msgspec.convert(folders | changes, LocalLaunchSettings))


@pytest.mark.parametrize(
    ("own", "asked", "seconds"),
    [(3600.0, None, 3600), (3600.0, 90.0, 90), (0.0, 90.0, 90), (3600.0, 0.2, 1)],
)
async def test_a_server_has_an_idle_time_of_its_own(
    tmp_path: Path, own: float, asked: float | None, seconds: int
) -> None:
    image = made_image(tmp_path, {}, FAKE_JUPYTER.format(python=sys.executable))
    async with local(tmp_path, idle_timeout=own) as launcher:
        await launcher.launch(replace(REQUEST, image=image, idle_timeout=asked), Quiet())
        (server,) = processes_with(str(tmp_path / "state"))
        assert f"--ServerApp.shutdown_no_activity_timeout={seconds}" in server.cmdline()


async def test_whether_a_local_server_is_there(tmp_path: Path) -> None:
    image = made_image(tmp_path, {}, FAKE_JUPYTER.format(python=sys.executable))
    request = replace(REQUEST, image=image)
    async with local(tmp_path) as launcher:
        assert not await launcher.running(request)
        await launcher.launch(request, Quiet())
        assert await launcher.running(request)
        assert not await launcher.running(replace(request, name="another"))
        (server,) = processes_with(str(tmp_path / "state"))
        server.kill()
        server.wait(10)
        assert not await launcher.running(request)


async def test_a_local_image_is_preloaded_where_it_was_built(tmp_path: Path) -> None:
    image = made_image(tmp_path, {}, FAKE_JUPYTER.format(python=sys.executable))
    async with local(tmp_path) as launcher:
        await launcher.preload(image)
        with pytest.raises(LaunchFailed, match="built anew"):
            await launcher.preload("another")


async def test_the_fake_knows_its_servers() -> None:
    engine = FakeEngine()
    launcher = FakeLauncher(LauncherSettings(), engine)
    assert not await launcher.running(REQUEST)
    await launcher.launch(REQUEST, Quiet())
    assert await launcher.running(REQUEST)
    await launcher.preload("an-image")
    assert engine.preloaded == ["an-image"]
    engine.disconnect()
    with pytest.raises(BackendUnavailable):
        await launcher.running(REQUEST)
