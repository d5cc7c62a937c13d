"""A real repository, a real environment from the package index, a real Jupyter, a real kernel."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import websockets.sync.client
from local_repos import Log, Quiet, commit, directory, processes_with, request

from binder_backends.local import (
    LocalBuilder,
    LocalLauncher,
    LocalLaunchSettings,
    LocalSettings,
)
from binder_core.plugin import BuildFailed, BuildRequest, LaunchRequest

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("package_index")]

FILES = {
    "requirements.txt": "six==1.17.0\n",
    "pyproject.toml": (
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
        "[project]\nname = 'shown'\nversion = '1'\n[tool.setuptools]\npy-modules = ['shown']\n"
    ),
    "shown.py": "GREETING = 'hello'\n",
    "postBuild": (
        "#!/bin/bash\npython -c 'import six, shown' && echo both are there\n"
        "pip --version\necho kept > ~/kept\n"
    ),
    "start": '#!/bin/bash\nexport FROM_START=yes\nexec "$@"\n',
}
TOKEN = "t0ken-of-a-real-server"
CELL = """
import os, pathlib, shown, six
print(shown.GREETING, os.environ["FROM_START"], pathlib.Path("kept").read_text())
"""


def settings(folder: Path, **changes: object) -> LocalSettings:
    given = {"cache_dir": str(folder), "allow_directories": True}
    jupyter = {"jupyter_packages": ("jupyter-server", "ipykernel")}
    return LocalSettings(**(given | jupyter | changes))  # type: ignore[arg-type]  # names and values


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def built(
    package_index: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, BuildRequest, Log]]:
    """A cache, what was built in it, and the log of that."""
    folder = tmp_path_factory.mktemp("real")
    repo = directory(folder, FILES)
    asked, log = request(repo, commit(repo), "Git"), Log()

    async def build() -> None:
        async with LocalBuilder(settings(folder / "cache")) as builder:
            await builder.build(asked, log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_COMPILE_BYTECODE", "0")  # takes longer than all the rest
        anyio.run(build)
    yield folder, asked, log
    assert processes_with(str(folder)) == []


def test_what_the_repository_declares_is_installed(
    built: tuple[Path, BuildRequest, Log],
) -> None:
    folder, _, log = built
    assert "+ six==1.17.0" in log.text
    assert "+ shown==1" in log.text
    assert "+ jupyter-server==" in log.text
    assert "both are there\n" in log.text
    assert "pip 2" in log.text, "pip is there for postBuild and for notebooks"
    assert str(folder / "cache") not in log.text


@pytest.mark.anyio
async def test_a_cell_runs_in_the_environment(
    built: tuple[Path, BuildRequest, Log],
) -> None:
    folder, asked, _ = built
    state = folder / "state"
    launching = LocalLaunchSettings(cache_dir=str(folder / "cache"), state_dir=str(state))
    async with LocalLauncher(launching) as launcher:
        url = await launcher.launch(LaunchRequest("real", asked.image, TOKEN), Quiet())
        said = await anyio.to_thread.run_sync(run_cell, url, CELL)
        assert said == "hello yes kept\n\n"
        began = time.monotonic()
        assert await launcher.launch(LaunchRequest("real", asked.image, TOKEN), Quiet()) == url
        assert time.monotonic() - began < 1.0
    assert processes_with(str(folder)) == [], "no kernel outlives its server"
    assert list((state / "servers").iterdir()) == []


def run_cell(url: str, code: str) -> str:
    """Return what `code` prints in a new kernel."""
    headers = {"Authorization": f"token {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        assert client.get("api/status").status_code == 200
        kernel = client.post("api/kernels").raise_for_status().json()["id"]
    channels = f"{url.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
    header |= {"username": "u", "session": uuid.uuid4().hex, "date": "2026-01-01T00:00:00Z"}
    content = {"code": code, "silent": False, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    printed = ""
    with websockets.sync.client.connect(channels, additional_headers=headers) as socket:
        socket.send(json.dumps(message | {"channel": "shell"}))
        while True:
            reply = json.loads(socket.recv(timeout=60))
            if reply["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if reply["msg_type"] == "stream":
                printed += reply["content"]["text"]
            if reply["msg_type"] == "error":
                printed += "\n".join(reply["content"]["traceback"])
            # On the channel of what is printed this comes last; execute_reply comes on another.
            if reply["content"].get("execution_state") == "idle":
                return printed


@pytest.mark.anyio
async def test_requirements_that_cannot_be_installed(
    built: tuple[Path, BuildRequest, Log], tmp_path: Path
) -> None:
    repo = directory(tmp_path, {"requirements.txt": "six==0.0.never\n"})
    async with LocalBuilder(settings(tmp_path / "cache")) as builder:
        with pytest.raises(BuildFailed) as failure:
            await builder.build(request(repo), Log())
    assert failure.value.message.startswith(
        "Installing requirements.txt failed: uv ended with exit status"
    )
    assert "six" in failure.value.message.partition("Its last lines:")[2]
    assert list((tmp_path / "cache" / "images").glob("*/*")) == []


@pytest.mark.anyio
async def test_a_python_that_nobody_has(tmp_path: Path) -> None:
    repo = directory(tmp_path, {"runtime.txt": "python-3.99"})
    async with LocalBuilder(settings(tmp_path / "cache")) as builder:
        with pytest.raises(
            BuildFailed, match=r"runtime\.txt asks for Python 3\.99, which uv finds"
        ):
            await builder.build(request(repo), Log())
