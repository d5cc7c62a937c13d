# Made by binder_http.protocol_stub from the declaration; a test compares. Do not edit.
# ruff: noqa: A002, UP013 - the names are the declaration's
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypedDict

import httpx

from binder_core.protocol import Failure, Protocol
from binder_http.protocol_calls import BlockingProtocolClient, Errors, ProtocolClient

__all__ = [
    "AlreadyBuilding",
    "BadDatabase",
    "BadKubeRequest",
    "BadQuery",
    "BadRepoSource",
    "BadResponse",
    "BlockingClient",
    "BlockingProtocolClient",
    "Client",
    "DoesNotExist",
    "Failure",
    "Generic",
    "MalformedRequest",
    "NoBuildInfo",
    "NoDatabase",
    "NoRecord",
    "ProtocolClient",
    "Refused",
    "RegistryError",
    "Timeout",
    "Unauthorized",
    "UnknownFailure",
    "load",
]

def load(path: str | os.PathLike[str]) -> Protocol: ...

class NoDatabase(Failure): ...
class BadQuery(Failure): ...
class BadRepoSource(Failure): ...
class AlreadyBuilding(Failure): ...
class NoBuildInfo(Failure): ...
class BadDatabase(Failure): ...
class DoesNotExist(Failure): ...
class RegistryError(Failure): ...
class NoRecord(Failure): ...
class BadKubeRequest(Failure): ...
class UnknownFailure(Failure): ...
class Unauthorized(Failure): ...
class MalformedRequest(Failure): ...
class BadResponse(Failure): ...
class Timeout(Failure): ...
class Refused(Failure): ...
class Generic(Failure): ...

_BuildStart = TypedDict(
    "_BuildStart",
    {
        "name": str,
    },
)

_BuildStatus = TypedDict(
    "_BuildStatus",
    {
        "name": str,
        "start-time": str,
        "status": str,
        "phase": str,
        "repository": str,
    },
)

_RegistryFetchLimits = TypedDict(
    "_RegistryFetchLimits",
    {
        "memory": str | None,
        "cpu": float | None,
    },
)

_RegistryFetch = TypedDict(
    "_RegistryFetch",
    {
        "name": str,
        "image-name": str,
        "image-source": str,
        "port": float,
        "limits": _RegistryFetchLimits,
        "services": list[dict[str, Any]],
    },
)

_DeployDeploy = TypedDict(
    "_DeployDeploy",
    {
        "id": str,
    },
)

_DeployStatus = TypedDict(
    "_DeployStatus",
    {
        "id": str,
        "location": str | None,
    },
)

_HealthStatus = TypedDict(
    "_HealthStatus",
    {
        "name": str,
        "timestamp": str,
        "status": str,
    },
)

class _BuildCalls:
    async def start(
        self,
        *,
        repository: str,
        force: bool | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _BuildStart: ...
    async def status(
        self,
        *,
        image_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _BuildStatus: ...
    async def status_all(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_BuildStatus]: ...

class _BuildBlockingCalls:
    def start(
        self,
        *,
        repository: str,
        force: bool | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _BuildStart: ...
    def status(
        self,
        *,
        image_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _BuildStatus: ...
    def status_all(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_BuildStatus]: ...

class _RegistryCalls:
    async def fetch(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _RegistryFetch: ...
    async def fetch_all(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_RegistryFetch]: ...

class _RegistryBlockingCalls:
    def fetch(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _RegistryFetch: ...
    def fetch_all(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_RegistryFetch]: ...

class _DeployCalls:
    async def deploy(
        self,
        *,
        template_name: str,
        cull_timeout: float | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _DeployDeploy: ...
    async def status(
        self,
        *,
        template_name: str,
        id: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _DeployStatus: ...
    async def status_all(
        self,
        *,
        template_name: str | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_DeployStatus]: ...
    async def preload(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> Any: ...
    async def preload_status(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> Any: ...

class _DeployBlockingCalls:
    def deploy(
        self,
        *,
        template_name: str,
        cull_timeout: float | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _DeployDeploy: ...
    def status(
        self,
        *,
        template_name: str,
        id: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> _DeployStatus: ...
    def status_all(
        self,
        *,
        template_name: str | None = None,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_DeployStatus]: ...
    def preload(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> Any: ...
    def preload_status(
        self,
        *,
        template_name: str,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> Any: ...

class _HealthCalls:
    async def status(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_HealthStatus]: ...

class _HealthBlockingCalls:
    def status(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
    ) -> list[_HealthStatus]: ...

class Client:
    protocol: Protocol
    errors: Errors
    build: _BuildCalls
    registry: _RegistryCalls
    deploy: _DeployCalls
    health: _HealthCalls
    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = ...,
        http: httpx.AsyncClient | None = None,
    ) -> None: ...
    def function(self, name: str) -> Callable[..., Any]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def aclose(self) -> None: ...

class BlockingClient:
    protocol: Protocol
    errors: Errors
    build: _BuildBlockingCalls
    registry: _RegistryBlockingCalls
    deploy: _DeployBlockingCalls
    health: _HealthBlockingCalls
    def __init__(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = ...,
        http: httpx.Client | None = None,
    ) -> None: ...
    def function(self, name: str) -> Callable[..., Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
