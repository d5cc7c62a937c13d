"""A builder and a launcher that do nothing, exactly as told: to develop against, and for tests.

In a configuration file they are plug-ins as any other (see `Script` and `LaunchScript` for the
settings)::

    [builder.fake]
    lines = 200
    rate = 20.0
    layers = { a1b2 = 50000000, c3d4 = 8000000 }

    [builder.fake.scripts."*/broken"]
    fails = "pip could not find a version of numpie"

In a test several instances share a `FakeEngine`, as several servers share one Docker or one
cluster: a run goes on when nobody watches, and whoever asks next finds it. Nothing runs in the
background: what a run has said by now is a function of the engine's clock, which a test may
replace (`FakeClock`). The fakes pass the conformance suites of `binder_core.testing`.
"""

from binder_backends.fake.builder import FakeBuilder
from binder_backends.fake.clock import FakeClock
from binder_backends.fake.engine import FakeEngine, Run, Server
from binder_backends.fake.launcher import FakeLauncher
from binder_backends.fake.scripts import (
    BuilderSettings,
    LauncherSettings,
    LaunchScript,
    LogLine,
    Script,
)

__all__ = [
    "BuilderSettings",
    "FakeBuilder",
    "FakeClock",
    "FakeEngine",
    "FakeLauncher",
    "LaunchScript",
    "LauncherSettings",
    "LogLine",
    "Run",
    "Script",
    "Server",
]
