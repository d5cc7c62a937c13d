"""Builds and launches on this machine, with nothing but Python, git and uv.

It runs other people's code as the user who started it: nothing here keeps a build or a notebook
server from what that user may read or write. See ``docs/local-backend.md``.
"""

from binder_backends.local.builder import LocalBuilder
from binder_backends.local.launcher import LocalLauncher
from binder_backends.local.settings import LocalLaunchSettings, LocalSettings

__all__ = ["LocalBuilder", "LocalLaunchSettings", "LocalLauncher", "LocalSettings"]
