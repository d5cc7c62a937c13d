"""Builds and launches on a Docker engine. See ``docs/docker.md``."""

from binder_backends.docker.builder import DockerBuilder
from binder_backends.docker.settings import DockerSettings

__all__ = ["DockerBuilder", "DockerSettings"]
