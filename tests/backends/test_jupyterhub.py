"""The JupyterHub launcher on a real hub that fails, refuses, ends, and cannot be reached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from binder_backends.jupyterhub.launcher import JupyterHubLauncher
from binder_backends.jupyterhub.settings import JupyterHubSettings
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest
from binder_core.testing.launchers import Launch
from engines.jupyterhub import JupyterHub
from engines.plug import Moment, Plug, reply
from engines.processes import until

pytestmark = [pytest.mark.real, pytest.mark.anyio]

_count = itertools.count()


@pytest.fixture
def plug(jupyterhub: JupyterHub) -> Iterator[Plug]:
    with Plug(f"127.0.0.1:{jupyterhub.hub_port}") as plug:
        yield plug


def asked(image: str = "ok") -> LaunchRequest:
    name = f"fault-{next(_count)}"
    return LaunchRequest(name, f"test/{image}:1", f"t0ken-of-{name}", "https://u:pw@x.org/r", "abc")


def launcher_of(hub: JupyterHub, plug: Plug | None = None, **changes: object) -> JupyterHubLauncher:
    api = f"http://{plug.address}/hub/api" if plug else hub.api_url
    given = {"url": hub.url, "api_url": api, "token": hub.token} | changes
    return JupyterHubLauncher(JupyterHubSettings(**given))  # type: ignore[arg-type] # by name


async def launched(launcher: JupyterHubLauncher, request: LaunchRequest) -> Launch:
    """Launch as the engine does: asked again while the connection is broken."""
    launch = Launch(launcher, request, 0.01)
    with anyio.fail_after(60):
        await launch.run()
    assert launch.fault is None
    return launch


async def holds(condition: Callable[[], bool]) -> None:
    await anyio.to_thread.run_sync(lambda: until(condition, "a condition", seconds=60))


def hold_back(hub: JupyterHub) -> Path:
    """Return what lets the servers of "waits" start when it is there."""
    go = hub.folder / "go"
    go.unlink(missing_ok=True)
    return go


def only_server(hub: JupyterHub, request: LaunchRequest) -> bool:
    return len(hub.servers(request.name)) == 1


def nothing_left(hub: JupyterHub, request: LaunchRequest) -> bool:
    return hub.get(f"users/{request.name}").status_code == 404 and not hub.servers(request.name)


# -- The connection ------------------------------------------------------------------------------


PHASES: list[tuple[str, Moment]] = [
    ("POST /hub/api/users/{} ", "asked"),
    ("POST /hub/api/users/{} ", "answered"),
    ("POST /hub/api/users/{}/server ", "asked"),
    ("POST /hub/api/users/{}/server ", "answered"),
    ("GET /hub/api/users/{}/server/progress", "asked"),
    ("GET /hub/api/users/{}/server/progress", "answered"),
    ("GET /hub/api/users/{}/server/progress", "telling"),
]


@pytest.mark.parametrize(("request_line", "moment"), PHASES)
async def test_a_cut_in_any_phase_costs_a_launch_nothing(
    request_line: str, moment: Moment, jupyterhub: JupyterHub, plug: Plug
) -> None:
    request = asked("waits")
    go = hold_back(jupyterhub)
    async with launcher_of(jupyterhub, plug) as launcher, anyio.create_task_group() as tasks:
        plug.cut_at(request_line.format(request.name), moment)
        launch = Launch(launcher, request, 0.01)
        tasks.start_soon(launch.run)
        await holds(lambda: plug.refused == 3 and "Found some" in launch.log.messages)
        go.touch()
        with anyio.fail_after(60):
            await launch.ended()
        assert plug.cuts == 1
        assert launch.url == f"{jupyterhub.url}user/{request.name}/"
        assert only_server(jupyterhub, request)
        # Nothing is told twice, whichever part of it was heard before the cut.
        told = launch.log.messages
        assert told == ["Server requested", f"Looking for room for {request.name}", "Found some"]
        await launcher.stop(request)
    assert nothing_left(jupyterhub, request)


async def test_a_cut_while_stopping_is_said_and_the_next_try_stops(
    jupyterhub: JupyterHub, plug: Plug
) -> None:
    request = asked()
    async with launcher_of(jupyterhub, plug) as launcher:
        await launched(launcher, request)
        plug.cut_at(f"DELETE /hub/api/users/{request.name}", "answered", refusals=1)
        with pytest.raises(BackendUnavailable, match="broke the connection"):
            await launcher.stop(request)
        with pytest.raises(BackendUnavailable, match="broke the connection"):
            await launcher.running(request)
        await launcher.stop(request)
    assert nothing_left(jupyterhub, request)


async def test_a_hub_that_falls_silent_is_given_up_and_asked_again(
    jupyterhub: JupyterHub, plug: Plug
) -> None:
    request = asked("waits")
    go = hold_back(jupyterhub)
    # Shorter than the 8 s between two signs of life of a hub that waits.
    async with launcher_of(jupyterhub, plug, request_timeout=0.5) as launcher:
        with pytest.raises(BackendUnavailable, match="does not answer"):
            await launcher.launch(request, Launch(launcher, request, 0.01).log)
        go.touch()
        launch = await launched(launcher, request)
        assert launch.url
        assert only_server(jupyterhub, request)
        await launcher.stop(request)


# -- The hub -------------------------------------------------------------------------------------


async def test_a_hub_killed_in_mid_launch_and_started_again(jupyterhub: JupyterHub) -> None:
    request = asked("waits")
    go = hold_back(jupyterhub)
    async with launcher_of(jupyterhub) as launcher, anyio.create_task_group() as tasks:
        launch = Launch(launcher, request, 0.01)
        tasks.start_soon(launch.run)
        await holds(lambda: "Found some" in launch.log.messages)
        await anyio.to_thread.run_sync(jupyterhub.kill)
        go.touch()
        await anyio.to_thread.run_sync(jupyterhub.start)
        with anyio.fail_after(60):
            await launch.ended()
        assert launch.url == f"{jupyterhub.url}user/{request.name}/"
        assert only_server(jupyterhub, request)
        await launcher.stop(request)
    assert nothing_left(jupyterhub, request)


async def test_a_server_outlives_its_hub_and_is_found_again(jupyterhub: JupyterHub) -> None:
    request = asked()
    async with launcher_of(jupyterhub) as launcher:
        url = (await launched(launcher, request)).url
        before = jupyterhub.servers(request.name)
        await anyio.to_thread.run_sync(jupyterhub.kill)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await launcher.running(request)
        await anyio.to_thread.run_sync(jupyterhub.start)
        assert await launcher.running(request)
        assert (await launched(launcher, request)).url == url
        assert jupyterhub.servers(request.name) == before
        await launcher.stop(request)
        assert not await launcher.running(request)


async def test_a_hub_that_answers_5xx_twice_and_then_works(
    jupyterhub: JupyterHub, plug: Plug
) -> None:
    request = asked()
    broken = reply("503 Service Unavailable", "<html>no hub here</html>")
    async with launcher_of(jupyterhub, plug) as launcher:
        plug.answer(f"POST /hub/api/users/{request.name} ", broken, broken)
        plug.answer(f"POST /hub/api/users/{request.name}/server ", broken, broken)
        assert (await launched(launcher, request)).url
        assert only_server(jupyterhub, request)
        await launcher.stop(request)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("full", "Your quota of 2 servers is used up."),
        ("stuck", "The hub gave no reason, as it does when a server takes longer than the"),
        ("mute", "didn't respond in 1 seconds"),
        ("ok:1 --rm", "is none that this hub may start"),
    ],
)
async def test_a_failure_is_told_with_the_hubs_own_reason(
    image: str, why: str, jupyterhub: JupyterHub
) -> None:
    request = asked(image)
    async with launcher_of(jupyterhub) as launcher:
        launch = await launched(launcher, request)
        assert launch.failure is not None
        assert launch.failure.message.startswith("JupyterHub could not start the server: ")
        assert why in launch.failure.message
    assert nothing_left(jupyterhub, request)


async def test_an_image_of_somebody_else_is_not_started(jupyterhub: JupyterHub) -> None:
    request = LaunchRequest("fault-other", "evil/test/ok:1", "t0ken-of-nobody")
    async with launcher_of(jupyterhub) as launcher:
        launch = await launched(launcher, request)
    assert launch.failure is not None
    assert "The image 'evil/test/ok:1' is none that this hub may start." in str(launch.failure)
    assert nothing_left(jupyterhub, request)


async def test_a_launch_that_takes_too_long_ends(jupyterhub: JupyterHub) -> None:
    request = asked("waits")
    hold_back(jupyterhub)
    async with launcher_of(jupyterhub, start_timeout=1.0) as launcher:
        launch = await launched(launcher, request)
        assert launch.failure is not None
        assert str(launch.failure) == "JupyterHub did not get the server ready within 1 s."
        assert not await launcher.running(request)
    assert nothing_left(jupyterhub, request)


async def test_a_limit_of_the_hub_is_told_in_its_words(jupyterhub: JupyterHub) -> None:
    jupyterhub.call("POST", "users/grace")
    async with launcher_of(jupyterhub, user="grace") as launcher:
        first, second, third = asked(), asked(), asked()
        for request in (first, second):
            url = (await launched(launcher, request)).url
            assert url == f"{jupyterhub.url}user/grace/{request.name}/"
        launch = await launched(launcher, third)
        assert launch.failure is not None
        assert "already has the maximum of 2 named servers" in str(launch.failure)
        assert await launcher.running(first)
        for request in (first, second):
            await launcher.stop(request)
            assert not await launcher.running(request)
    assert jupyterhub.get("users/grace").json()["servers"] == {}


async def test_too_many_at_once_come_again_and_a_limit_does_not(
    jupyterhub: JupyterHub, plug: Plug
) -> None:
    busy = reply("429 Too Many", '{"message": "Too many users just now."}', "retry-after: 10")
    full = reply("429 Too Many", '{"message": "Active user limit exceeded."}')
    async with launcher_of(jupyterhub, plug) as launcher:
        request = asked()
        line = f"POST /hub/api/users/{request.name}/server "
        plug.answer(line, busy)
        with pytest.raises(BackendUnavailable, match="429: Too many users just now"):
            await launcher.launch(request, Launch(launcher, request, 0.01).log)
        plug.answer(line, full)
        with pytest.raises(LaunchFailed, match="refused to start a server: Active user limit"):
            await launcher.launch(request, Launch(launcher, request, 0.01).log)
    assert nothing_left(jupyterhub, request)


async def test_what_a_spawner_is_told_holds_no_credentials(jupyterhub: JupyterHub) -> None:
    request = asked()
    async with launcher_of(jupyterhub) as launcher:
        await launched(launcher, request)
        server = jupyterhub.get(f"users/{request.name}").json()["servers"][""]
        assert server["user_options"] == {
            "image": request.image,
            "token": request.token,
            "repo_url": "https://***@x.org/r",
            "ref": "abc",
        }
        (argv,) = jupyterhub.servers(request.name)
        assert request.token not in " ".join(argv)
        await launcher.stop(request)


# -- The configuration ---------------------------------------------------------------------------


async def refusal(launcher: JupyterHubLauncher) -> str:
    with pytest.raises(BackendUnavailable) as refused:
        async with launcher:
            pass
    return str(refused.value)


async def test_a_token_that_will_not_do(jupyterhub: JupyterHub, tmp_path: Path) -> None:
    wrong = await refusal(launcher_of(jupyterhub, token="not-the-one"))
    assert "does not know the token of the launcher. Set token" in wrong
    assert "not-the-one" not in wrong
    weak = await refusal(launcher_of(jupyterhub, token=jupyterhub.weak_token))
    assert "admin:users, delete:users, start:servers, delete:servers missing" in weak
    assert "needs a token" in await refusal(launcher_of(jupyterhub, token=""))
    assert "characters" in await refusal(launcher_of(jupyterhub, token="two words"))
    gone = launcher_of(jupyterhub, token="", token_file=str(tmp_path / "none"))
    assert "token_file) cannot be read: No such file" in await refusal(gone)


async def test_a_token_from_a_file(jupyterhub: JupyterHub) -> None:
    file = str(jupyterhub.folder / "binder-token")
    async with launcher_of(jupyterhub, token="", token_file=file) as launcher:
        await launcher.check()
        assert launcher.versions()["jupyterhub"]


async def test_a_token_taken_away_meanwhile(jupyterhub: JupyterHub, plug: Plug) -> None:
    request = asked()
    no = reply("403 Forbidden", '{"message": "Missing or invalid credentials."}')
    async with launcher_of(jupyterhub, plug) as launcher:
        plug.answer(f"POST /hub/api/users/{request.name} ", no)
        plug.answer("GET /hub/api/user ", no)
        with pytest.raises(BackendUnavailable, match="does not know the token"):
            await launcher.launch(request, Launch(launcher, request, 0.01).log)


async def test_an_address_that_is_no_hubs(jupyterhub: JupyterHub, plug: Plug) -> None:
    nowhere = f"{jupyterhub.url}hub/nothing"
    assert "is no JupyterHub (HTTP 404). Set api_url" in await refusal(
        launcher_of(jupyterhub, api_url=nowhere)
    )
    elsewhere = await refusal(launcher_of(jupyterhub, api_url=jupyterhub.url))
    assert "sends us to /hub/. Set api_url" in elsewhere
    plug.answer("GET /hub/api/ ", reply("200 OK", '{"version": "1.5.0"}'))
    assert "is 1.5.0, which is too old: 2.0 or newer" in await refusal(
        launcher_of(jupyterhub, plug)
    )


async def test_a_user_that_the_hub_does_not_have(jupyterhub: JupyterHub) -> None:
    assert "has no user 'nobody': log in there once" in await refusal(
        launcher_of(jupyterhub, user="nobody")
    )


async def test_a_hub_that_is_not_there_yet(jupyterhub: JupyterHub, plug: Plug) -> None:
    plug.cut()
    plug.cut_at("never", "asked", refusals=2)
    async with launcher_of(jupyterhub, plug) as launcher:  # it may come up later
        assert launcher.versions() == {}
        with pytest.raises(BackendUnavailable):
            await launcher.check()
        await launcher.check()
