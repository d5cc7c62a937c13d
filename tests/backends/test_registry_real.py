"""Real registries: Debian's, with no login, basic and bearer; and a real engine that pushes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from binder_backends.registry import Registry, RegistryLogin, RegistrySettings
from binder_core.plugin import RegistryUnavailable
from engines.docker import DockerEngine
from engines.registry import Registry as RealRegistry

pytestmark = [pytest.mark.real, pytest.mark.anyio]

USER, PASSWORD = "me", "s3cret"
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "basic": {"users": {USER: PASSWORD}},
    "bearer": {"users": {USER: PASSWORD}, "tokens": True},
}
MEDIA = {
    "oci": (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
    ),
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
    ),
}
INDEXES = {
    "oci": "application/vnd.oci.image.index.v1+json",
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
}


@pytest.fixture(params=KINDS)
def real(
    request: pytest.FixtureRequest, make_registry: Callable[..., RealRegistry]
) -> Iterator[RealRegistry]:
    with make_registry(**KINDS[request.param]) as registry:
        yield registry


def ours(real: RealRegistry, password: str | None = PASSWORD, **settings: Any) -> Registry:
    logins = {real.address: RegistryLogin(user=USER, password=password)} if password else {}
    settings = {"read_docker_config": False} | settings
    return Registry(RegistrySettings(logins=logins, **settings))


def put(real: RealRegistry, name: str, kind: str = "oci", *, index: bool = False) -> None:
    """Put an image into a registry: by hand, no engine knows all kinds of manifests."""
    repository, _, tag = name.partition(":")
    headers = {}
    if real.token_server is not None:
        token = real.token_server.token(USER, PASSWORD, [f"repository:{repository}:pull,push"])
        headers["authorization"] = f"Bearer {token}"
        login = None
    else:
        login = httpx.BasicAuth(USER, PASSWORD)
    with httpx.Client(base_url=real.url, auth=login, headers=headers, trust_env=False) as client:

        def put_manifest(manifest: dict[str, Any], reference: str) -> dict[str, Any]:
            data = json.dumps(manifest).encode()
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            client.put(
                f"/v2/{repository}/manifests/{reference or digest}",
                content=data,
                headers={"content-type": manifest["mediaType"]},
            ).raise_for_status()
            return {"mediaType": manifest["mediaType"], "digest": digest, "size": len(data)}

        config = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}'
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        upload = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
        place = httpx.URL(upload.headers["location"]).copy_merge_params({"digest": digest})
        client.put(place, content=config).raise_for_status()
        manifest_type, config_type = MEDIA[kind]
        manifest = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": digest, "size": len(config)},
            "layers": [],
        }
        described = put_manifest(manifest, "" if index else tag)
        if index:
            platform = {"architecture": "amd64", "os": "linux"}
            put_manifest(
                {
                    "schemaVersion": 2,
                    "mediaType": INDEXES[kind],
                    "manifests": [described | {"platform": platform}],
                },
                tag,
            )


async def test_images_of_all_kinds(real: RealRegistry) -> None:
    async with ours(real) as registry:
        for kind in MEDIA:
            for index in (False, True):
                name = f"some/nested/path-{kind}-{index}".lower()
                assert not await registry.exists(f"{real.address}/{name}:1")
                await anyio.to_thread.run_sync(lambda: put(real, f"{name}:1", kind, index=index))  # noqa: B023
                assert await registry.exists(f"{real.address}/{name}:1")
                assert not await registry.exists(f"{real.address}/{name}:2")


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_wrong_and_missing_logins_leave_it_open(
    make_registry: Callable[..., RealRegistry], kind: str
) -> None:
    with make_registry(**KINDS[kind]) as real:
        async with ours(real, "wrong") as registry:
            with pytest.raises(RegistryUnavailable, match=r"401.*refuses the login"):
                await registry.exists(f"{real.address}/x:1")
        if kind == "basic":  # the token server lets everybody pull
            async with ours(real, None) as registry:
                with pytest.raises(RegistryUnavailable, match=r"401.*asks for a login and none"):
                    await registry.exists(f"{real.address}/x:1")


async def test_a_registry_that_is_away_and_comes_back(real: RealRegistry) -> None:
    name = f"{real.address}/x:1"
    async with ours(real, step_timeout=0.2) as registry:
        assert not await registry.exists(name)
        real.pause()
        with pytest.raises(RegistryUnavailable, match=r"said nothing for 0\.2 seconds"):
            await registry.exists(name)
        real.resume()
        await anyio.to_thread.run_sync(real.stop)
        with pytest.raises(RegistryUnavailable, match="Connection refused"):
            await registry.exists(name)
        await anyio.to_thread.run_sync(real.start)
        await anyio.to_thread.run_sync(put, real, "x:1")
        with anyio.fail_after(30):
            assert await registry.exists(name)


async def test_the_engine_pushes_with_the_login(
    real: RealRegistry, docker_engine: DockerEngine, busybox_image: str, tmp_path: Path
) -> None:
    name = f"{real.address}/deep/er/image:1"
    docker = ["docker", "--config", str(tmp_path)]
    environment = docker_engine.environment

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*docker, *arguments], env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    async with ours(real) as registry:
        config = await registry.push_config(name)
        await anyio.to_thread.run_sync(run, "tag", busybox_image, name)
        try:
            refused = await anyio.to_thread.run_sync(run, "push", name)
            assert (refused.returncode == 0) is not bool(real._users), refused.stderr
            assert await registry.exists(name) is not bool(real._users)
            (tmp_path / "config.json").write_bytes(config)
            pushed = await anyio.to_thread.run_sync(run, "push", name)
            assert pushed.returncode == 0, pushed.stderr
            assert await registry.exists(name)
        finally:
            with suppress(subprocess.SubprocessError):
                await anyio.to_thread.run_sync(run, "rmi", name)
