"""Builds and launches on a Docker engine. See ``docs/docker.md``."""

from binder_backends.docker.builder import DockerBuilder
from binder_backends.docker.launch_settings import DockerLaunchSettings
from binder_backends.docker.launcher import DockerLauncher
from binder_backends.docker.settings import DockerSettings

__all__ = ["DockerBuilder", "DockerLaunchSettings", "DockerLauncher", "DockerSettings"]
