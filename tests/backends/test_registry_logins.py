"""Who we are at a registry: settings, Docker's config.json, credential helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from binder_backends.registry import Registry, RegistryLogin, RegistrySettings
from binder_core.plugin import RegistryUnavailable

pytestmark = pytest.mark.anyio

HUB_KEY = "https://index.docker.io/v1/"
ECR = "123456789012.dkr.ecr.eu-west-2.amazonaws.com"


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def pushes(key: str, user: str, password: str) -> dict[str, Any]:
    return {"auths": {key: auth(user, password)}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of Docker's configuration; helpers there are on the PATH."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def configure(folder: Path, config: object) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def make_helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


async def pushed_with(image: str, **settings: Any) -> Any:
    """Return the config.json that pushes an image, None if it needs none."""
    config = await Registry(RegistrySettings(**settings)).push_config(image)
    return json.loads(config) if config else None


@pytest.mark.parametrize(
    ("key", "image", "pushed_as"),
    [
        ("ghcr.io", "ghcr.io/me/x:1", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io/me/x:1", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io/me/x:1", "ghcr.io"),
        ("r.example:5000/v2/", "r.example:5000/x", "r.example:5000"),
        ("GHCR.io", "ghcr.io/me/x:1", "ghcr.io"),
        *((key, "me/x:1", HUB_KEY) for key in (HUB_KEY, "docker.io", "index.docker.io")),
        ("https://registry-1.docker.io/v2/", "docker.io/me/x", HUB_KEY),
    ],
)
async def test_the_names_of_a_registry(folder: Path, key: str, image: str, pushed_as: str) -> None:
    configure(folder, {"auths": {"other.example": auth("no", "no"), key: auth("me", "pw:1")}})
    assert await pushed_with(image) == pushes(pushed_as, "me", "pw:1")
    assert await pushed_with(image, read_docker_config=False) is None
    # Settings go before it, and are as lenient with names.
    logins = {key: RegistryLogin(user="us", password="mine")}
    assert await pushed_with(image, logins=logins) == pushes(pushed_as, "us", "mine")


@pytest.mark.parametrize("registry", ["r.example", "ghcr.io:443", "sub.ghcr.io", "docker.io"])
async def test_a_login_is_for_no_other_registry(folder: Path, registry: str) -> None:
    configure(
        folder, {"auths": {"ghcr.io": auth("me", "pw")}, "credHelpers": {"ghcr.io": "absent"}}
    )
    assert await pushed_with(f"{registry}/me/x:1") is None


async def test_forms_of_an_entry(folder: Path) -> None:
    entries = {
        "a.example": {"username": "me", "password": "pw"},
        "b.example": {"auth": base64.b64encode(b"me:pw\0\0").decode(), "email": "me@b.example"},
        "c.example": {**auth("00000000", ""), "identitytoken": "idt0ken"},
        "d.example": {},
    }
    configure(folder, {"auths": entries, "HttpHeaders": {"User-Agent": "x"}, "psFormat": "y"})
    assert await pushed_with("a.example/x") == pushes("a.example", "me", "pw")
    assert await pushed_with("b.example/x") == pushes("b.example", "me", "pw")
    assert await pushed_with("c.example/x") == {
        "auths": {"c.example": {"identitytoken": "idt0ken"}}
    }
    assert await pushed_with("d.example/x") is None


async def test_google_s_key_in_a_file(tmp_path: Path) -> None:
    key = json.dumps({"type": "service_account", "private_key": "-----\nBEGIN"}, indent=2)
    (tmp_path / "key.json").write_text(f"{key}\n")
    logins = {
        "us-docker.pkg.dev": RegistryLogin(
            user="_json_key", password_file=str(tmp_path / "key.json")
        )
    }
    config = await pushed_with("us-docker.pkg.dev/p/r/x:1", logins=logins)
    assert config == pushes("us-docker.pkg.dev", "_json_key", key)


@pytest.mark.parametrize("where", ["credHelpers", "credsStore", "settings"])
async def test_helpers(folder: Path, where: str) -> None:
    make_helper(
        folder,
        "ecr-login",
        'test "$1" = get || exit 3\n'
        f'read -r host; test "$host" = {ECR} || exit 4\n'
        """echo '{"ServerURL": "'$host'", "Username": "AWS", "Secret": "t0ken"}'""",
    )
    settings = {"settings": {"credential_helpers": {ECR: "ecr-login"}}}.get(where, {})
    configure(
        folder,
        {
            "credHelpers": {"credHelpers": {ECR: "ecr-login"}},
            "credsStore": {"credsStore": "ecr-login"},
        }.get(where, {}),
    )
    assert await pushed_with(f"{ECR}/x:1", **settings) == pushes(ECR, "AWS", "t0ken")


async def test_docker_hub_and_helpers(folder: Path) -> None:
    make_helper(
        folder,
        "store",
        f"""test "$(cat)" = {HUB_KEY} || exit 4; echo '{{"Username": "<token>", "Secret": "t"}}'""",
    )
    configure(folder, {"credsStore": "store"})
    assert await pushed_with("me/x") == {"auths": {HUB_KEY: {"identitytoken": "t"}}}


@pytest.mark.parametrize(
    "nothing",
    [
        "echo credentials not found in native keychain; exit 1",
        "cat >/dev/null; echo no credentials server URL; exit 1",
        """echo '{"Username": "", "Secret": ""}'""",
    ],
)
async def test_a_helper_that_knows_no_login(folder: Path, nothing: str) -> None:
    make_helper(folder, "store", nothing)
    configure(folder, {"credsStore": "store", "auths": {"r.example": auth("me", "pw")}})
    assert await pushed_with("r.example/x") == pushes("r.example", "me", "pw")
    assert await pushed_with("other.example/x") is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, r"docker-credential-store, which .* cannot be started \(No such file"),
        ("echo s3cret; echo s3cret >&2; exit 7", "failed with status 7 for r.example"),
        ("echo s3cret", "answered no JSON"),
        ("""echo '{"Username": "me", "Secret": 5, "x": "s3cret"}'""", "answered no JSON"),
        ("kill -9 $$", "failed with status -9"),
        ("sleep 600 & wait", "did not answer within 0.2 seconds"),
    ],
)
async def test_helpers_that_fail(
    folder: Path, script: str | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    if script is not None:
        make_helper(folder, "store", script)
    configure(folder, {"credsStore": "store"})
    with anyio.fail_after(30), pytest.raises(RegistryUnavailable, match=why) as caught:
        await pushed_with("r.example/x", helper_timeout=0.2 if script and "600" in script else 20.0)
    shown = str(caught.value) + repr(caught.value.__cause__) + caplog.text
    assert "s3cret" not in shown


async def test_a_helper_is_asked_once_by_many(folder: Path) -> None:
    make_helper(
        folder, "store", f"""echo >>{folder}/asked; echo '{{"Username": "me", "Secret": "pw"}}'"""
    )
    configure(folder, {"credsStore": "store"})
    registry = Registry()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(registry.push_config, "r.example/x")
    assert (folder / "asked").read_text() == "\n"


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a b"])
async def test_what_is_no_helper(folder: Path, name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="no name of a credential helper"):
        msgspec.convert({"credential_helpers": {"r.example": name}}, RegistrySettings)
    configure(folder, {"credHelpers": {"r.example": name}})
    if name and "/" in name:
        with pytest.raises(RegistryUnavailable, match="no name of a credential helper"):
            await pushed_with("r.example/x")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"auths": 5}', b'{"auths": {"r.example": {"auth": 1}}}']
)
async def test_a_damaged_config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RegistryUnavailable, match=r"config\.json.* is damaged"):
        await pushed_with("r.example/x")


async def test_a_damaged_login(folder: Path) -> None:
    configure(folder, {"auths": {"r.example": {"auth": "s3cret="}}})
    with pytest.raises(RegistryUnavailable, match=r"try docker login r\.example") as caught:
        await pushed_with("r.example/x")
    assert "s3cret" not in str(caught.value)


async def test_where_the_config_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pushed_with("r.example/x") is None  # there is none
    with pytest.raises(RegistryUnavailable, match="cannot be read: No such file"):
        await pushed_with("r.example/x", docker_config=str(folder / "absent"))
    for name in ("given", ".docker"):
        (folder / name).mkdir()
        configure(folder / name, {"auths": {"r.example": auth("me", name)}})
    for given in (folder / "given", folder / "given" / "config.json"):
        config = await pushed_with("r.example/x", docker_config=str(given))
        assert config == pushes("r.example", "me", "given")
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(folder))
    assert await pushed_with("r.example/x") == pushes("r.example", "me", ".docker")


async def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    logins = {"r.example": RegistryLogin(user="me", password_file=str(tmp_path / "absent"))}
    with pytest.raises(
        RegistryUnavailable, match=r"password_file for r\.example cannot be read: No"
    ):
        await pushed_with("r.example/x", logins=logins)


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": "me"},
        {"user": "", "password": "pw"},
        {"user": "a:b", "password": "pw"},
        {"user": "me", "password": "pw", "password_file": "f"},
    ],
)
def test_logins_that_cannot_be_meant(wrong: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"expected|must not"):
        msgspec.convert({"logins": {"r.example": wrong}}, RegistrySettings)


def test_no_password_shows() -> None:
    settings = RegistrySettings(logins={"r.example": RegistryLogin(user="me", password="s3cret")})
    assert "s3cret" not in repr(settings)
