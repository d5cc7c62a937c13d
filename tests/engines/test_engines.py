"""The engines of the tests are what they say, and leave nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from engines import images
from engines.docker import DockerEngine
from engines.network import free_block
from engines.processes import one_of, until
from engines.registry import Registry

USERS = {"somebody": "a password"}
SLEEPS = ("run", "--detach", "--init", images.BUSYBOX, "sleep", "1000")


@pytest.fixture
def second_engine(busybox_image: str, tmp_path: Path) -> Iterator[DockerEngine]:
    """Return an engine beside the first, for what would disturb others."""
    engine = DockerEngine(tmp_path / "docker", clamp_oom_score=True)
    with engine:
        images.busybox(engine)
        yield engine
    assert engine.left_behind() == []


@pytest.fixture
def greeting(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a server at the engine's address."""
    (tmp_path / "greeting").write_text("hello\n")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type] # as given

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer((docker_engine.address, 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{docker_engine.address}:{server.server_address[1]}/greeting"
        server.shutdown()


@pytest.mark.real
def test_the_engine_runs_containers(docker_engine: DockerEngine, busybox_image: str) -> None:
    assert docker_engine.answers()
    assert docker_engine.docker("run", "--rm", busybox_image, "echo", "hello") == "hello\n"


@pytest.mark.real
@pytest.mark.parametrize("network", ["bridge", "engines-of-its-own"])
def test_containers_reach_this_machine(
    docker_engine: DockerEngine, busybox_image: str, greeting: str, network: str
) -> None:
    if network != "bridge":
        docker_engine.docker("network", "create", network)
    try:
        run = ("run", "--rm", "--network", network, busybox_image)
        assert docker_engine.docker(*run, "wget", "-q", "-O-", greeting) == "hello\n"
    finally:
        if network != "bridge":
            docker_engine.docker("network", "rm", network)


@pytest.mark.real
def test_this_machine_reaches_a_port_of_a_container(
    docker_engine: DockerEngine, busybox_image: str
) -> None:
    serve = ("sh", "-c", "echo hello >/tmp/greeting && exec httpd -f -p 80 -h /tmp")
    options = ("--detach", "--rm", "--init", "--publish", "127.0.0.1::80")
    name = docker_engine.docker("run", *options, busybox_image, *serve).strip()
    try:
        address = docker_engine.docker("port", name, "80").strip()

        def greets() -> bool:
            try:
                return httpx.get(f"http://{address}/greeting", trust_env=False).text == "hello\n"
            except httpx.TransportError:
                return False

        until(greets, "the container does not answer", seconds=30)
    finally:
        docker_engine.docker("rm", "--force", name)


@pytest.mark.real
def test_the_packages_are_those_of_this_machine(
    docker_engine: DockerEngine, debian_python: str
) -> None:
    get = ("pip", "download", "--no-cache-dir", "--no-deps", "--dest", "/tmp", "iniconfig")
    said = docker_engine.docker("run", "--rm", debian_python, *get)
    assert "Successfully downloaded iniconfig" in said
    assert "file:" not in docker_engine.docker("run", "--rm", debian_python, "cat", "/etc/pip.conf")


@pytest.mark.real
def test_the_image_for_builds_has_what_a_build_needs(
    docker_engine: DockerEngine, repo2docker_image: str
) -> None:
    socket = ("--volume", f"{docker_engine.socket}:/var/run/docker.sock")
    programs = "jupyter-repo2docker --version && git --version && docker buildx ls"
    said = docker_engine.docker("run", "--rm", *socket, repo2docker_image, "sh", "-c", programs)
    assert said.startswith("20")
    assert "running" in said


@pytest.mark.real
@pytest.mark.parametrize("image", ["old_repo2docker_image", "old_stock_repo2docker_image"])
def test_images_with_an_old_repo2docker(
    docker_engine: DockerEngine, request: pytest.FixtureRequest, image: str
) -> None:
    name = request.getfixturevalue(image)
    run = ("run", "--rm", name, "jupyter-repo2docker", "--version")
    assert docker_engine.docker(*run).startswith("2024.")


@pytest.mark.real
def test_an_engine_beside_another(docker_engine: DockerEngine, second_engine: DockerEngine) -> None:
    assert not docker_engine.bridge.block.overlaps(second_engine.bridge.block)
    theirs = second_engine.docker(*SLEEPS).strip()
    assert second_engine.inspect(theirs[:12]) is not None
    assert docker_engine.inspect(theirs[:12]) is None


@pytest.mark.real
@pytest.mark.parametrize("orderly", [True, False])
def test_a_restart_stops_containers_and_keeps_them(
    second_engine: DockerEngine, *, orderly: bool
) -> None:
    name = second_engine.docker(*SLEEPS).strip()[:12]
    second_engine.restart(orderly=orderly)
    found = second_engine.inspect(name)
    assert found is not None
    assert not found["State"]["Running"]
    second_engine.docker("start", name)


@pytest.mark.real
def test_what_a_killed_session_left_is_found(second_engine: DockerEngine, tmp_path: Path) -> None:
    second_engine.docker("network", "create", "left")
    second_engine.docker("tag", images.BUSYBOX, "127.0.0.1:1/left:1")
    second_engine.docker(*SLEEPS)
    with DockerEngine(tmp_path / "docker") as next_one:
        assert next_one.docker("ps", "--all", "--quiet") == ""
        assert "left" not in next_one.docker("network", "ls")
        assert next_one.docker("images", "--format", "{{.Repository}}") == "busybox\n"
    assert next_one.left_behind() == []


@pytest.mark.real
def test_a_crashed_engine_leaves_nothing(second_engine: DockerEngine) -> None:
    second_engine.docker(*SLEEPS)
    second_engine.kill()
    assert not second_engine.answers()
    assert second_engine.left_behind() != []
    second_engine.stop()
    assert second_engine.left_behind() == []


@pytest.mark.real
def test_a_low_oom_score_is_not_asked_for(second_engine: DockerEngine) -> None:
    run = ("run", "--rm", "--oom-score-adj", "-500", images.BUSYBOX)
    assert second_engine.docker(*run, "cat", "/proc/self/oom_score_adj") == "0\n"


@pytest.mark.real
@pytest.mark.parametrize("options", [{}, {"delay": 0.001}], ids=["at once", "slow"])
def test_a_registry_takes_images_and_gives_them(
    docker_engine: DockerEngine,
    busybox_image: str,
    make_registry: Callable[..., Registry],
    options: dict[str, object],
) -> None:
    with make_registry(**options) as registry:
        image = f"{registry.address}/engines/pushed:1"
        _push(docker_engine, busybox_image, image)
        assert _tags(registry) == ["1"]
        registry.stop()
        with pytest.raises(httpx.ConnectError if registry.wire is None else httpx.TransportError):
            _tags(registry)
        registry.start()
        docker_engine.docker("pull", image)
        docker_engine.docker("rmi", image)


@pytest.mark.real
def test_a_registry_at_the_address_of_the_engine(
    docker_engine: DockerEngine, busybox_image: str, make_registry: Callable[..., Registry]
) -> None:
    with make_registry(host=docker_engine.address) as registry:
        _push(docker_engine, busybox_image, f"{registry.address}/engines/pushed:1")
        run = ("run", "--rm", busybox_image, "wget", "-q", "-O-")
        said = docker_engine.docker(*run, f"{registry.url}/v2/engines/pushed/tags/list")
        assert json.loads(said)["tags"] == ["1"]


@pytest.mark.real
def test_a_registry_falls_silent(make_registry: Callable[..., Registry]) -> None:
    with make_registry() as registry:
        registry.pause()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{registry.url}/v2/", timeout=0.2, trust_env=False)
        registry.resume()
        assert httpx.get(f"{registry.url}/v2/", trust_env=False).status_code == 200


@pytest.mark.real
@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "bearer"])
def test_a_registry_asks_who_pushes(
    docker_engine: DockerEngine,
    busybox_image: str,
    make_registry: Callable[..., Registry],
    tmp_path: Path,
    *,
    tokens: bool,
) -> None:
    with make_registry(users=USERS, tokens=tokens) as registry:
        asked = httpx.get(f"{registry.url}/v2/", trust_env=False)
        assert asked.status_code == 401
        scheme = "Bearer " if tokens else "Basic "
        assert asked.headers["WWW-Authenticate"].startswith(scheme)
        image = f"{registry.address}/engines/pushed:1"
        for who in ("", "somebody:a wrong password"):
            with pytest.raises(AssertionError, match=r"no basic auth|unauthorized|denied"):
                _push(docker_engine, busybox_image, image, _login(tmp_path, registry, who))
        _push(
            docker_engine, busybox_image, image, _login(tmp_path, registry, "somebody:a password")
        )
        if registry.token_server is not None:
            assert "somebody repository:engines/pushed:push,pull" in registry.token_server.asked


@pytest.mark.real
def test_a_wire_is_cut_and_mended(make_registry: Callable[..., Registry]) -> None:
    with make_registry(delay=0.001) as registry, httpx.Client(trust_env=False) as client:
        assert registry.wire is not None
        assert client.get(f"{registry.url}/v2/").status_code == 200
        registry.wire.cut()
        with pytest.raises(httpx.TransportError):
            client.get(f"{registry.url}/v2/")
        registry.wire.mend()
        assert client.get(f"{registry.url}/v2/").status_code == 200


@pytest.mark.real
def test_a_wire_can_be_cut_so_that_nobody_is_told(make_registry: Callable[..., Registry]) -> None:
    with make_registry(delay=0.001) as registry, httpx.Client(trust_env=False) as client:
        assert registry.wire is not None
        assert client.get(f"{registry.url}/v2/").status_code == 200
        registry.wire.cut(silent=True)
        for _ in ("over the connection that there is", "over another one"):
            with pytest.raises(httpx.ReadTimeout):
                client.get(f"{registry.url}/v2/", timeout=0.2)
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(client.get, f"{registry.url}/v2/", timeout=30)
            with pytest.raises(TimeoutError):
                asked.result(timeout=0.2)
            registry.wire.mend()
            assert asked.result(timeout=30).status_code == 200, "it arrives late"


def test_sessions_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    with ExitStack() as stack:
        assert [stack.enter_context(one_of(folders)) for _ in folders] == folders
        with pytest.raises(AssertionError, match="in use"):
            stack.enter_context(one_of(folders))
    with one_of(folders) as again:
        assert again == folders[0]


@pytest.mark.real
def test_blocks_do_not_overlap_what_is_there(docker_engine: DockerEngine) -> None:
    taken = docker_engine.bridge.block
    assert not any(free_block(number).overlaps(taken) for number in range(16))


def _push(engine: DockerEngine, local: str, image: str, config: Path | None = None) -> None:
    engine.docker("tag", local, image)
    try:
        login = {"DOCKER_CONFIG": str(config)} if config else {}
        engine.docker("push", image, environment=login)
    finally:
        engine.docker("rmi", image)


def _tags(registry: Registry) -> object:
    url = f"{registry.url}/v2/engines/pushed/tags/list"
    return httpx.get(url, trust_env=False).json()["tags"]


def _login(folder: Path, registry: Registry, who: str) -> Path:
    auth = {"auth": base64.b64encode(who.encode()).decode()}
    config = {"auths": {registry.address: auth} if who else {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
