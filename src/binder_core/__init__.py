"""The rules of Binder: pure code, and a small engine that runs it.

Embedders use `binder_core.engine`, plug-in authors `binder_core.plugin` and `binder_core.testing`.
"""

from binder_core.errors import (
    BackendUnavailable,
    BinderError,
    BuildFailed,
    ConfigError,
    IllegalTransition,
    LaunchFailed,
    ProviderUnavailable,
    RefNotFound,
    Refused,
    RegistryUnavailable,
    ShuttingDown,
    SpecError,
    UnknownProvider,
)
from binder_core.events import (
    Building,
    Built,
    Event,
    Failed,
    Fetching,
    Launching,
    LayerProgress,
    Pushing,
    Ready,
    Waiting,
)
from binder_core.ordering import Phase
from binder_core.specs import Resolved, Spec

__all__ = [
    "BackendUnavailable",
    "BinderError",
    "BuildFailed",
    "Building",
    "Built",
    "ConfigError",
    "Event",
    "Failed",
    "Fetching",
    "IllegalTransition",
    "LaunchFailed",
    "Launching",
    "LayerProgress",
    "Phase",
    "ProviderUnavailable",
    "Pushing",
    "Ready",
    "RefNotFound",
    "Refused",
    "RegistryUnavailable",
    "Resolved",
    "ShuttingDown",
    "Spec",
    "SpecError",
    "UnknownProvider",
    "Waiting",
]
