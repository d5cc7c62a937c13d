"""Image registries: whether an image is there, and the login that pushes it.

`Registry` performs the core's dialogue over httpx, with the logins of the operator's settings and
of Docker's ``config.json``. For builders that push.
"""

from binder_backends.registry.client import Registry
from binder_backends.registry.settings import RegistryLogin, RegistrySettings

__all__ = ["Registry", "RegistryLogin", "RegistrySettings"]
