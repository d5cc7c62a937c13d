"""The engines of the tests are what they say, and leave nothing."""

from __future__ import annotations

import httpx
import pytest

from engines.docker import DockerEngine
from engines.registry import Registry

pytestmark = pytest.mark.real


def test_the_engine_answers(docker_engine: DockerEngine, busybox_image: str) -> None:
    said = docker_engine.docker("run", "--rm", busybox_image, "echo", "hello")
    assert said == "hello\n"


def test_its_images_are_pushed_to_the_registry(
    docker_engine: DockerEngine, busybox_image: str, image_registry: Registry
) -> None:
    image = f"{image_registry.address}/engines/pushed:1"
    _push(docker_engine, busybox_image, image)
    tags = httpx.get(f"{image_registry.url}/v2/engines/pushed/tags/list").json()
    assert tags == {"name": "engines/pushed", "tags": ["1"]}
    docker_engine.docker("pull", image)
    docker_engine.docker("rmi", image)


def _push(engine: DockerEngine, local: str, image: str) -> None:
    engine.docker("tag", local, image)
    try:
        engine.docker("push", image)
    finally:
        engine.docker("rmi", image)
