"""The engine: the only part of the core that runs."""

from binder_core.engine.bell import Batch
from binder_core.engine.binder import Binder, BuildInfo, Check, Plan, Request
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer, Silent

__all__ = [
    "Batch",
    "Binder",
    "BuildInfo",
    "Check",
    "Limits",
    "Observer",
    "Plan",
    "Request",
    "Silent",
]
