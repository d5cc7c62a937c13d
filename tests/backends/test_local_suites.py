"""The conformance suites on the local backend, with a uv and a Jupyter that cost no time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from local_repos import (
    FAKE_JUPYTER,
    directory,
    made_image,
    processes_with,
    request,
    settings,
)

from binder_backends.jupyter import api_status
from binder_backends.local import LocalBuilder, LocalLauncher, LocalLaunchSettings
from binder_backends.local.layout import Layout
from binder_core.plugin import Builder, BuildRequest, Launcher, LaunchRequest
from binder_core.testing import BuilderSuite, LauncherSuite


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    # Processes cost time: trio has its turn in the other tests.
    return "asyncio"


def expect_nobody_left(folder: Path) -> None:
    left = processes_with(str(folder))
    for process in left:
        process.kill()
    assert left == []


class TestLocalBuilder(BuilderSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Iterator[None]:
        self.tmp = tmp_path
        self.go = tmp_path / "go"
        yield
        expect_nobody_left(tmp_path)

    def make_builder(self) -> Builder:
        return LocalBuilder(settings(self.tmp))

    def request_that_builds(self) -> BuildRequest:
        return request(directory(self.tmp, {"postBuild": "echo built here\n"}))

    def request_that_fails(self) -> BuildRequest:
        return request(directory(self.tmp, {"postBuild": "echo no; exit 3\n"}))

    def slow_request(self) -> BuildRequest:
        wait = f"while [ ! -e {self.go} ]; do sleep 0.02; done; echo released\n"
        return request(directory(self.tmp, {"postBuild": wait}))

    async def release(self) -> None:
        self.go.touch()

    async def image_is_there(self, image: str) -> bool:
        return Layout(self.tmp / "cache").built_file(image).is_file()

    async def runs_started(self, name: str) -> int:
        return len(list((self.tmp / "cache" / "builds" / name / "runs").glob("*.log")))


class TestLocalLauncher(LauncherSuite):
    survives = False  # a normal stop ends the servers

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Iterator[None]:
        self.tmp = tmp_path
        self.count = 0
        jupyter = FAKE_JUPYTER.format(python=sys.executable)
        self.image = made_image(tmp_path, {"a": ""}, jupyter)
        self.failing = made_image(tmp_path, {"a": ""}, "#!/bin/sh\necho no such module; exit 1\n")
        self.go = tmp_path / "go"
        wait = f'#!/bin/sh\nwhile [ ! -e {self.go} ]; do sleep 0.02; done\nexec "$@"\n'
        self.slow = made_image(tmp_path, {"start": wait}, jupyter, start="start")
        yield
        expect_nobody_left(tmp_path)

    def make_launcher(self) -> Launcher:
        cache, state = str(self.tmp / "cache"), str(self.tmp / "state")
        return LocalLauncher(LocalLaunchSettings(cache_dir=cache, state_dir=state))

    def request(self, image: str) -> LaunchRequest:
        self.count += 1
        return LaunchRequest(f"server-{self.count}", image, token=f"t0ken-{self.count}")

    def request_that_launches(self) -> LaunchRequest:
        return self.request(self.image)

    def request_that_fails(self) -> LaunchRequest:
        return self.request(self.failing)

    def slow_request(self) -> LaunchRequest:
        return self.request(self.slow)

    async def release(self) -> None:
        self.go.touch()

    async def answers(self, url: str, token: str) -> bool:
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        return await api_status(host, int(port), token) == 200

    async def is_left(self, name: str) -> bool:
        folder = self.tmp / "state" / "servers" / name
        return await anyio.Path(folder).exists() or bool(processes_with(str(folder)))
