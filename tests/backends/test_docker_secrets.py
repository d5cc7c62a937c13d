"""What is left of secrets in the containers of ended builds: nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import pytest

from binder_backends.docker import DockerBuilder
from binder_core.plugin import BuildFailed, BuildRequest
from binder_core.testing import StrictReport
from engines.docker import DockerEngine
from engines.docker_builds import SCRIPT, containers, request, settings, tidy
from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

USER, REGISTRY_PASSWORD, GIT_PASSWORD = "pusher", "pass-word-of-registry", "pass-word-of-git"
SECRETS: Final = [
    REGISTRY_PASSWORD.encode(),
    GIT_PASSWORD.encode(),
    base64.b64encode(f"{USER}:{REGISTRY_PASSWORD}".encode()),
]
SPYING: Final = f"""
for word in git-credentials:x-access-token config.json:auths; do
  grep -qs "${{word#*:}}" "/etc/binderkit/${{word%%:*}}" && echo "has ${{word%%:*}}" >&2
done
stat -c 'mode %a of %u' /etc/binderkit /etc/binderkit/git-credentials >&2
{SCRIPT}"""
"""Tells first what it was given."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # aiodocker knows no other


@pytest.fixture(scope="module")
def registry(make_registry: Callable[..., Registry]) -> Iterator[Registry]:
    with make_registry(users={USER: REGISTRY_PASSWORD}) as started:
        yield started


@pytest.fixture
def engine(docker_engine: DockerEngine, busybox_image: str) -> Iterator[DockerEngine]:
    yield docker_engine
    tidy(docker_engine)


def left_in(engine: DockerEngine, container: str, folder: Path) -> list[bytes]:
    """Return what an engine gives away of a container: its files, its log, what is told of it."""
    exported, copied = folder / "exported.tar", folder / "copied"
    engine.docker("export", "--output", str(exported), container)
    engine.docker("cp", f"{container}:/etc", str(copied))
    copies = [path.read_bytes() for path in copied.rglob("*") if path.is_file()]
    told = [engine.docker(*words, container) for words in (("inspect",), ("logs",), ("diff",))]
    return [exported.read_bytes(), *copies, *(text.encode() for text in told)]


@pytest.mark.parametrize(
    ("ends", "runner"),
    [("built", True), ("fails", True), ("killed", True), ("built", False), ("killed", False)],
)
async def test_the_container_of_an_ended_build_holds_no_secret(
    engine: DockerEngine,
    repo2docker_image: str,
    registry: Registry,
    tmp_path: Path,
    *,
    ends: str,
    runner: bool,
) -> None:
    url = {"built": "quick", "fails": "fails", "killed": "slow/TOKEN"}[ends]
    # The script in repo2docker's place pushes nothing itself.
    wanted = request(f"https://example.org/{url}", host=registry.address if runner else "")
    chosen = settings(
        engine,
        repo2docker_image,
        repo2docker=["sh", "-c", SPYING, "script"],
        git_credentials={"example.org": {"password": GIT_PASSWORD}},
        registry={"logins": {registry.address: {"user": USER, "password": REGISTRY_PASSWORD}}},
        push=runner,
        runner=runner,
    )
    report, again = StrictReport(), StrictReport()

    async def outcome(wanted: BuildRequest, report: StrictReport) -> str:
        try:
            await made.build(wanted, report)
        except BuildFailed as failure:
            return failure.message
        return "built"

    async def kill() -> None:
        if ends == "killed":
            await report.until(lines=5)
            await anyio.to_thread.run_sync(engine.docker, "kill", wanted.name)

    async with DockerBuilder(chosen) as made:
        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                ended = await outcome(wanted, report)
            follow = replace(wanted, follow=report.run_id, image_exists=True)
            assert await outcome(follow, again) == ended
    lines = [line.message.rstrip() for line in report.lines.values()]
    assert "has git-credentials" in lines, "it was given one"
    assert ("has config.json" in lines) == runner
    assert [line for line in lines if line.startswith("mode")] == ["mode 700 of 0", "mode 600 of 0"]
    assert (ended == "built") == (ends == "built"), ended
    assert again.lines == report.lines, "the journal stays"

    (run,) = containers(engine, wanted.name)
    assert run["State"]["Status"] == "exited"
    for left in left_in(engine, run["Id"], tmp_path):
        assert not [secret for secret in SECRETS if secret in left]
