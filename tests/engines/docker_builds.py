"""What the tests of the Docker builder share."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from binder_backends.docker import DockerSettings
from binder_core.plugin import BuildRequest
from engines.docker import DockerEngine

RELEASE = "docker-builds-release"
"""Slow builds wait for an image of this name, with the request's own tag."""

SCRIPT = f"""
for word; do case "$word" in --image-name=*) image=${{word#*=}} ;; esac; url=$word; done
say() {{ printf '{{"message": "%s\\\\n", "phase": "%s"}}\\n' "$1" "$2" >&2; }}
say "Cloning $url" fetching
echo "a warning, no JSON" >&2
say "Step 1/1" building
case "$url" in
  */fails) say "no such package" building; exit 3 ;;
  */slow/*)
    until docker image inspect "{RELEASE}:${{url##*/}}" >/dev/null 2>&1; do sleep 0.1; done ;;
esac
docker tag busybox:test "$image"
say "Successfully tagged $image" building
"""
"""In the place of repo2docker: it logs as that does, and makes an image in no time."""


def settings(engine: DockerEngine, image: str, **options: Any) -> DockerSettings:
    return msgspec.convert({"host": engine.host, "builder_image": image, **options}, DockerSettings)


def quick(engine: DockerEngine, image: str, **options: Any) -> DockerSettings:
    """Return settings for builds by `SCRIPT`."""
    return settings(engine, image, **{"repo2docker": ["sh", "-c", SCRIPT, "script"], **options})


def request(
    url: str = "https://example.org/builds", *, ref: str = "", host: str = ""
) -> BuildRequest:
    token = secrets.token_hex(6)
    image = f"{host}{'/' if host else ''}docker-builds/{token}:{ref[:12] or 'one'}"
    return BuildRequest(f"build-{token}", image, url.replace("TOKEN", token), ref or "1" * 40)


def release(engine: DockerEngine, request: BuildRequest) -> None:
    tag = request.repo_url.rpartition("/")[2]
    engine.docker("tag", "busybox:test", f"{RELEASE}:{tag}")


def containers(engine: DockerEngine, name: str) -> list[Mapping[str, Any]]:
    """Return what the engine tells of the runs of a build."""
    ours = f"label=io.binderkit.build={name}"
    listed = engine.docker("ps", "-aq", "--filter", ours).split()
    found: list[Mapping[str, Any]] = json.loads(engine.docker("inspect", *listed)) if listed else []
    return found


def tidy(engine: DockerEngine) -> None:
    """Remove all build containers, and the images that they made."""
    builds = engine.docker("ps", "-aq", "--filter", "label=io.binderkit.build").split()
    if builds:
        engine.docker("rm", "-f", "-v", *builds)
    listed = engine.docker("images", "--format", "{{json .}}").splitlines()
    names = [f"{said['Repository']}:{said['Tag']}" for said in map(json.loads, listed)]
    ours = [name for name in names if RELEASE in name or "docker-builds/" in name]
    if ours:
        engine.docker("rmi", "-f", *ours)
