"""Builds by real repo2docker, old and new, on a real engine, pushed to a real registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from docker_host import in_registry

from binder_backends.docker import DockerBuilder, DockerSettings
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    LayerProgress,
    Phase,
    Progress,
)
from binder_core.testing import StrictReport
from engines.docker import DockerEngine
from engines.docker_builds import containers, request, settings, tidy
from engines.git_server import GitServer
from engines.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

PASSWORD = "pass-word-of-git/@1"
DOCKERFILE = """\
FROM busybox:test
COPY . /home
RUN dd if=/dev/urandom of=/big bs=1M count=24 2>/dev/null
RUN echo "a line of the Dockerfile"
"""


@pytest.fixture
def engine(docker_engine: DockerEngine, busybox_image: str) -> Iterator[DockerEngine]:
    yield docker_engine
    tidy(docker_engine)


@pytest.fixture
def git(engine: DockerEngine, tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "git", engine.address, login=f"reader:{PASSWORD}") as server:
        yield server


@pytest.fixture(params=["current", "old"])
def builder_image(request: pytest.FixtureRequest) -> str:
    names = {"current": "repo2docker_image", "old": "old_repo2docker_image"}
    image: str = request.getfixturevalue(names[request.param])
    return image


def with_git(engine: DockerEngine, git: GitServer, image: str, **options: object) -> DockerSettings:
    who = {"user": "reader", "password": PASSWORD}
    return settings(engine, image, git_credentials={f"http://{git.host}": who}, **options)


def demo(git: GitServer, registry: str = "", dockerfile: str = DOCKERFILE) -> BuildRequest:
    url, commit = git.repository("demo", {"Dockerfile": dockerfile, "index.ipynb": "{}"})
    return request(url, ref=commit, host=registry)


async def built(builder: DockerBuilder, wanted: BuildRequest) -> StrictReport:
    report = StrictReport()
    with anyio.fail_after(240):
        await builder.build(wanted, report)
    assert report.faults == []
    return report


async def failed(builder: DockerBuilder, wanted: BuildRequest) -> tuple[StrictReport, str]:
    report = StrictReport()
    with anyio.fail_after(240), pytest.raises(BuildFailed) as failure:
        await builder.build(wanted, report)
    assert report.faults == []
    return report, failure.value.message


def phases(report: StrictReport) -> list[Phase]:
    """Return the phases that were gone through."""
    told = [line.phase for line in report.lines.values() if line.phase is not None]
    return [phase for n, phase in enumerate(told) if n == 0 or told[n - 1] is not phase]


async def until_said(report: StrictReport, words: str) -> None:
    while not any(words in line.message for line in report.lines.values()):
        await report.until(lines=len(report.lines) + 1)


def expect_growth(states: list[Progress]) -> None:
    """Fail the test unless each layer's bytes grow, and all layers end in words."""
    assert states
    for layer, end in states[-1].items():
        assert end in {"Pushed", "Layer already exists"}
        seen = [state[layer] for state in states if layer in state]
        counts = [state.current for state in seen if isinstance(state, LayerProgress)]
        assert counts == sorted(counts)
        assert all(0 <= s.current <= s.total for s in seen if isinstance(s, LayerProgress))


async def test_a_private_repository_is_built_and_pushed(
    engine: DockerEngine, git: GitServer, image_registry: Registry, builder_image: str
) -> None:
    wanted = demo(git, image_registry.address)
    async with DockerBuilder(with_git(engine, git, builder_image, push=True)) as builder:
        assert await builder.exists(wanted.image) is False
        report = await built(builder, wanted)
        assert await builder.exists(wanted.image) is True
        again = await built(builder, wanted)
    assert again.story == (None, ())
    assert in_registry(image_registry, wanted.image)
    assert phases(report) == [Phase.FETCHING, Phase.BUILDING, Phase.PUSHING]
    text = "".join(line.message for line in report.lines.values())
    assert "Picked Git content provider" in text
    assert "a line of the Dockerfile" in text
    states = [line.progress for line in report.lines.values() if line.progress is not None]
    expect_growth(states)
    big = max(
        (state for each in states for state in each.values() if isinstance(state, LayerProgress)),
        key=lambda state: state.total,
    )
    assert big.total > 24_000_000
    (run,) = containers(engine, wanted.name)
    printed = engine.docker("logs", run["Id"])
    for place in (json.dumps(run), printed, text, repr(builder.__dict__)):
        assert PASSWORD not in place
        assert "pass-word-of-git" not in place


async def test_credentials_in_the_url_go_the_same_way(
    engine: DockerEngine, git: GitServer, repo2docker_image: str
) -> None:
    wanted = demo(git)
    with_user = wanted.repo_url.replace("http://", "http://reader:pass-word-of-git%2F%401@")
    wanted = BuildRequest(wanted.name, wanted.image, with_user, wanted.ref)
    async with DockerBuilder(settings(engine, repo2docker_image)) as builder:
        report = await built(builder, wanted)
    (run,) = containers(engine, wanted.name)
    text = "".join(line.message for line in report.lines.values())
    for place in (json.dumps(run), engine.docker("logs", run["Id"]), text):
        assert "pass-word-of-git" not in place


async def test_without_credentials_the_message_says_what_is_missing(
    engine: DockerEngine, git: GitServer, repo2docker_image: str
) -> None:
    async with DockerBuilder(settings(engine, repo2docker_image)) as builder:
        _, message = await failed(builder, demo(git))
    assert "git_credentials" in message


@pytest.fixture(params=["current", "old"])
def stock_image(request: pytest.FixtureRequest) -> str:
    names = {"current": "stock_repo2docker_image", "old": "old_stock_repo2docker_image"}
    image: str = request.getfixturevalue(names[request.param])
    return image


async def test_a_stock_image_of_repo2docker_pushes_itself(
    engine: DockerEngine,
    git: GitServer,
    make_registry: Callable[..., Registry],
    stock_image: str,
) -> None:
    chosen = with_git(engine, git, stock_image, push=True, runner=False)
    # The old one tells how far a push is each 1.5 s: 24 MB in 384 pieces take longer.
    with make_registry(delay=0.01) as registry:
        wanted = demo(git, registry.address)
        async with DockerBuilder(chosen) as builder:
            report = await built(builder, wanted)
            follow = BuildRequest(
                wanted.name, wanted.image, wanted.repo_url, wanted.ref, follow=report.run_id
            )
            again = await built(builder, follow)
        assert again.story == report.story
        assert in_registry(registry, wanted.image)
    assert list(report.lines) == list(range(1, len(report.lines) + 1))
    assert not any(line.message.startswith('{"message"') for line in report.lines.values())
    states = [line.progress for line in report.lines.values() if line.progress is not None]
    if "old" in stock_image:
        assert phases(report)[-1] is Phase.PUSHING
        assert states, "a current one tells nothing of its push"
    for state in states:
        for layer in state.values():
            assert layer in {"Pushed", "Layer already exists"} or isinstance(layer, LayerProgress)


PROVIDERS = """
import sys
from repo2docker.app import Repo2Docker
app = Repo2Docker()
app.load_config_file(sys.argv[1].removeprefix("--config="))
print("asked:", *(provider.__name__ for provider in app.content_providers))
"""


@pytest.mark.parametrize("provider", ["Git", "Zenodo"])
async def test_no_other_content_provider_is_asked(
    engine: DockerEngine, builder_image: str, provider: str
) -> None:
    asks = ["python3", "-c", PROVIDERS]
    wanted = request()
    wanted = BuildRequest(wanted.name, wanted.image, wanted.repo_url, wanted.ref, provider)
    async with DockerBuilder(settings(engine, builder_image, repo2docker=asks)) as builder:
        report, _ = await failed(builder, wanted)
    assert f"asked: {provider}\n" in [line.message for line in report.lines.values()]


async def test_a_dockerfile_that_fails_is_the_failure(
    engine: DockerEngine, git: GitServer, builder_image: str
) -> None:
    wanted = demo(git, dockerfile="FROM busybox:test\nRUN echo so sad && exit 7\n")
    async with DockerBuilder(with_git(engine, git, builder_image)) as builder:
        _, message = await failed(builder, wanted)
        assert await builder.exists(wanted.image) is False
    assert "The build failed" in message
    assert "exit" in message


async def test_a_registry_that_refuses_the_login_and_then_takes_it(
    engine: DockerEngine,
    git: GitServer,
    make_registry: Callable[..., Registry],
    builder_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make_registry(users={"pusher": "pass-word-of-registry"}) as registry:
        wanted = demo(git, registry.address)
        login = {"user": "pusher", "password": "pass-word-of-registry"}
        logins = {"read_docker_config": False, "logins": {registry.address: login}}
        chosen = with_git(engine, git, builder_image, push=True, registry=logins)
        async with DockerBuilder(chosen) as builder:
            with monkeypatch.context() as patch:
                patch.setattr(builder._registry, "push_config", no_good_login)
                _, message = await failed(builder, wanted)
            assert registry.address in message
            assert "refused the push" in message
            assert await builder.exists(wanted.image) is False
            await built(builder, wanted)
            assert await builder.exists(wanted.image) is True
        for run in containers(engine, wanted.name):
            assert "pass-word-of-registry" not in json.dumps(run)
            assert "pass-word-of-registry" not in engine.docker("logs", run["Id"])


async def no_good_login(image: str) -> bytes:
    auth = base64.b64encode(b"pusher:not the password").decode()
    return json.dumps({"auths": {image.partition("/")[0]: {"auth": auth}}}).encode()


async def test_a_registry_that_is_away_for_a_while_gets_the_image(
    engine: DockerEngine,
    git: GitServer,
    make_registry: Callable[..., Registry],
    repo2docker_image: str,
) -> None:
    with make_registry() as registry:
        wanted = demo(git, registry.address)
        async with DockerBuilder(with_git(engine, git, repo2docker_image, push=True)) as builder:
            report = StrictReport()
            async with anyio.create_task_group() as tasks:
                with anyio.fail_after(240):
                    tasks.start_soon(builder.build, wanted, report)
                    await report.until(lines=1)
                    registry.stop()
                    while not any(
                        "does not take" in line.message for line in report.lines.values()
                    ):
                        await report.until(lines=len(report.lines) + 1)
                    await anyio.to_thread.run_sync(registry.start)
        assert in_registry(registry, wanted.image)
    assert report.faults == []


@pytest.mark.parametrize("orderly", [True, False])
async def test_the_engine_restarts_while_building(
    engine: DockerEngine,
    git: GitServer,
    repo2docker_image: str,
    orderly: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    slow = "FROM busybox:test\nRUN echo it begins && sleep 600\n"
    wanted = demo(git, dockerfile=slow)
    async with DockerBuilder(with_git(engine, git, repo2docker_image)) as builder:
        report = StrictReport()
        outcome: list[str] = []

        async def watch() -> None:
            # As the engine of ours does it: again, with the run that was told.
            while not outcome:
                follow = BuildRequest(
                    wanted.name, wanted.image, wanted.repo_url, wanted.ref, follow=report.run_id
                )
                try:
                    await builder.build(follow, report)
                except BackendUnavailable:
                    await anyio.sleep(0.2)
                except BuildFailed as failure:
                    outcome.append(failure.message)
                else:
                    outcome.append("built")

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await until_said(report, "it begins")
                await anyio.to_thread.run_sync(lambda: engine.restart(orderly=orderly))
        assert len(outcome) == 1
        assert "restarted" in outcome[0]
        assert report.faults == []
        assert await builder.exists(wanted.image) is False
        again = request(wanted.repo_url, ref=wanted.ref)
        _, message = await failed(builder, BuildRequest(again.name, again.image, "-x", "y"))
        assert "cannot be fetched" in message
