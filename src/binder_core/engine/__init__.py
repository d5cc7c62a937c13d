"""The engine: the only part of the core that runs."""

from binder_core.engine.bell import Batch
from binder_core.engine.binder import Binder
from binder_core.engine.limits import Limits
from binder_core.engine.observer import Observer, Silent
from binder_core.engine.operator import Operator
from binder_core.engine.steps import Steps
from binder_core.engine.values import BuildInfo, Check, Overview, Plan, Request

__all__ = [
    "Batch",
    "Binder",
    "BuildInfo",
    "Check",
    "Limits",
    "Observer",
    "Operator",
    "Overview",
    "Plan",
    "Request",
    "Silent",
    "Steps",
]
