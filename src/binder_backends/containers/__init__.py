"""What the container of a build is given, whichever engine runs it.

`BuildSettings` are the operator's, `plan_build` makes of them and a request what the container
runs: a `BuildPlan`. Arguments and environment of it hold no secret; these are in its files, which
the engine of the containers has a way to bring in that no listing shows.
"""

from binder_backends.containers.images import repository
from binder_backends.containers.plan import FOLDER, LABEL, STOP_FILE, BuildPlan, plan_build
from binder_backends.containers.settings import BuildSettings, GitCredential, byte_size

__all__ = [
    "FOLDER",
    "LABEL",
    "STOP_FILE",
    "BuildPlan",
    "BuildSettings",
    "GitCredential",
    "byte_size",
    "plan_build",
    "repository",
]
