"""Conformance suites: what a plug-in author subclasses to know that a plug-in keeps its contract.

There is one for each protocol of `binder_core.plugin`::

    from binder_core.testing import BuilderSuite

    class TestMine(BuilderSuite):
        def make_builder(self): ...
        def request_that_builds(self): ...

The tests come with it. They look at the outcome by a second path: a report that checks the order
of what it is told, a second instance on the same engine, and what the author can find out without
the plug-in. The suites need pytest, and anyio's plug-in for it, which comes with anyio; nothing
else of the core imports this package.
"""

import pytest

# The suites' assertions shall say what they compared, as those of a test module do.
pytest.register_assert_rewrite(
    "binder_core.testing.builders",
    "binder_core.testing.launchers",
    "binder_core.testing.plugins",
    "binder_core.testing.providers",
    "binder_core.testing.stores",
)

from binder_core.testing.builders import BuilderSuite  # noqa: E402 - after the line above
from binder_core.testing.launchers import LauncherSuite  # noqa: E402
from binder_core.testing.providers import Dialogue, ProviderSuite  # noqa: E402
from binder_core.testing.reports import LaunchLog, StrictReport  # noqa: E402
from binder_core.testing.stores import StoreSuite  # noqa: E402

__all__ = [
    "BuilderSuite",
    "Dialogue",
    "LaunchLog",
    "LauncherSuite",
    "ProviderSuite",
    "StoreSuite",
    "StrictReport",
]
