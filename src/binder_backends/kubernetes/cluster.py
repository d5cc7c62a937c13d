"""The connection to a cluster: a few calls over kubernetes-asyncio, its faults made ours.

Objects go in and come out as the API has them: its models of today would refuse what an older
cluster says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes_asyncio import client, config

from binder_backends.kubernetes.manifest import CONTAINER, SELECTOR, Object
from binder_backends.kubernetes.settings import KubernetesSettings
from binder_core.plugin import BackendUnavailable

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CALL: Final = aiohttp.ClientTimeout(total=30.0, connect=10.0)
_LIST: Final = aiohttp.ClientTimeout(total=120.0, connect=10.0)
_WATCH_FOR: Final = 240
"""Seconds after which the API server shall end a watch, so that one whose connection died
unnoticed is not waited for much longer."""
_WATCH: Final = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=_WATCH_FOR + 30.0)
_LOG: Final = aiohttp.ClientTimeout(total=None, connect=10.0)
_KUBELET: Final = 10250
"""The port of nodes."""
_PATCH: Final = "application/strategic-merge-patch+json"


class NotThere(Exception):
    """There is no such object, or no longer that one."""


class Exists(Exception):
    """There is an object of that name."""


class Expired(Exception):
    """The version to watch from is too old (410): list again."""


class Denied(BackendUnavailable):
    """The cluster does not allow it (403); says why."""

    @property
    def quota(self) -> bool:
        """Return whether a quota is used up, or was made just now and not yet counted."""
        return "exceeded quota" in self.message or "status unknown for quota" in self.message


class NotYet(Exception):
    """The container has no log yet."""


class Outage(BackendUnavailable):
    """The API server did not answer, or cannot for now: it is worth another try."""


class Cluster:
    """A cluster, as far as builds are concerned.

    Args:
        settings: The operator's.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self.namespace = settings.namespace
        self._client: client.ApiClient | None = None

    async def __aenter__(self) -> Self:
        """Read the configuration; asks nothing of the cluster yet.

        Raises:
            BackendUnavailable: There is none, or it cannot be read.
        """
        configuration = client.Configuration()
        # Each log that is followed holds a connection: no upper bound.
        configuration.connection_pool_maxsize = 0
        # Python 3.13 refuses certificates without key identifiers; many a cluster's authority,
        # made long ago or by its provider, has none.
        configuration.disable_strict_ssl_verification = True
        try:
            await self._configure(configuration)
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise BackendUnavailable(
                f"The cluster's configuration cannot be read: {error}. Set kubeconfig, or run in a"
                " pod with a service account."
            ) from error
        self._client = client.ApiClient(configuration)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        api, self._client = self._client, None
        if api is not None:
            await api.close()

    async def _configure(self, configuration: client.Configuration) -> None:
        settings = self._settings
        in_pod = (_ACCOUNT / "token").is_file()
        if in_pod and not settings.kubeconfig:
            load: Any = config.load_incluster_config  # it has no types
            load(client_configuration=configuration)
            namespace: str = (_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
        else:
            file = settings.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
            path = os.path.expanduser(file)  # noqa: PTH111, ASYNC240 - asks no disk
            context = settings.context or None
            await config.load_kube_config(path, context, client_configuration=configuration)
            contexts, current = config.list_kube_config_contexts(path)
            chosen = next((one for one in contexts if one["name"] == context), current)
            namespace = ((chosen or {}).get("context") or {}).get("namespace", "")
        self.namespace = settings.namespace or namespace or "default"

    # -- Calls -------------------------------------------------------------------------------

    async def version(self) -> str:
        """Return the version of the API server."""
        said = await self._ask("GET", "/version")
        return str(said.get("gitVersion", "unknown"))

    async def may(self, verb: str, resource: str) -> bool:
        """Return whether we may do that to that resource in our namespace."""
        name, _, subresource = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "resource": name}
        if subresource:
            attributes["subresource"] = subresource
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        said = await self._ask("POST", path, review)
        return bool((said.get("status") or {}).get("allowed"))

    async def pod(self, name: str) -> Object | None:
        """Return a pod, None if there is none of that name."""
        try:
            return await self._ask("GET", self._path("pods", name))
        except NotThere:
            return None

    async def pods(self) -> tuple[list[Object], str]:
        """Return all build pods, and the version from which to watch for changes."""
        query = {"labelSelector": SELECTOR}
        said = await self._ask("GET", self._path("pods"), query=query, timeout=_LIST)
        return said.get("items") or [], said["metadata"]["resourceVersion"]

    async def create_pod(self, pod: Object) -> Object:
        """Create a pod and return it.

        Raises:
            Exists: There is one of that name.
            Denied: Not allowed, or a quota is used up.
        """
        return await self._ask("POST", self._path("pods"), pod)

    async def create_secret(self, secret: Object) -> None:
        """Create a secret; that it is there already is fine.

        Raises:
            Denied: Not allowed, or a quota is used up.
        """
        with suppress(Exists):
            await self._ask("POST", self._path("secrets"), secret)

    async def patch_pod(self, name: str, uid: str, patch: Object) -> Object | None:
        """Change that very pod and return it; None if it is gone."""
        body = {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
        try:
            return await self._ask("PATCH", self._path("pods", name), body)
        except (NotThere, Exists):  # another uid is a conflict
            return None

    async def delete_pod(self, name: str, uid: str, *, grace: int | None = None) -> None:
        """Delete that very pod; gone already is fine.

        Args:
            name: Its name.
            uid: Which one of that name.
            grace: Seconds that it gets to end; None: what it asked for itself.
        """
        body: Object = {"preconditions": {"uid": uid}}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        with suppress(NotThere, Exists):
            await self._ask("DELETE", self._path("pods", name), body)

    # -- Streams -----------------------------------------------------------------------------

    async def watch(self, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield changes of build pods from a version on: what happened, and the object.

        It ends when the API server ends it, and is to be begun again from the newest version.

        Raises:
            Expired: The version is too old.
            Outage: The connection broke.
        """
        query = {
            "labelSelector": SELECTOR,
            "resourceVersion": version,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_FOR),
        }
        response = await self._open(self._path("pods"), query, _WATCH)
        try:
            buffer = b""
            while data := await self._read(response):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in filter(None, lines):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        raise _fault(event["object"].get("code", 500), event["object"])
                    yield event["type"], event["object"]
        finally:
            response.close()

    @asynccontextmanager
    async def log(
        self, name: str, *, follow: bool, tail: int | None = None
    ) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
        """Open a pod's log; it is closed with the block.

        What comes is a function that returns the next piece of it, which is no line; empty at the
        end. It may be cancelled and called again.

        Raises:
            NotThere: There is no such pod.
            NotYet: Its container has not started.
            Outage: The connection broke, also while it is read.
        """
        query = {"container": CONTAINER, "follow": "true" if follow else "false"}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = self._path("pods", name, "log")
        response = await self._open(path, query, _LOG if follow else _LIST)
        try:
            yield partial(self._read, response)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        with _faults():
            return await response.content.readany()

    def _path(self, *parts: str) -> str:
        return "/".join((f"/api/v1/namespaces/{quote(self.namespace)}", *map(quote, parts)))

    async def _ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = _CALL,
    ) -> Object:
        """Return what the API server answers."""
        response = await self._send(method, path, query or {}, body, timeout)
        with _faults():
            async with response:
                answer = await response.read()
        try:
            said: Object = msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise BackendUnavailable(
                "What answers as the cluster's API server is none: is the kubeconfig right?"
            ) from error
        return said

    async def _open(
        self, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Return a response to be read bit by bit, and closed."""
        return await self._send("GET", path, query, None, timeout)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        assert self._client is not None, "the cluster is entered first"  # noqa: S101
        call: Any = self._client.call_api  # it has no types
        content = _PATCH if method == "PATCH" else "application/json"
        with _faults():
            response: aiohttp.ClientResponse = await call(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            if response.status < 300:
                return response
            async with response:
                answer = await response.read()
        try:
            status = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            status = None
        raise _fault(response.status, status if isinstance(status, dict) else {})


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise Outage("The cluster's API server did not answer in time.") from error
    except aiohttp.ClientConnectorCertificateError as error:
        cause = error.certificate_error
        said = getattr(cause, "verify_message", "") or str(cause)
        raise BackendUnavailable(
            f"The certificate of the cluster's API server is not to be trusted: {said}. Is the"
            " kubeconfig's certificate-authority the one of this cluster?"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Outage(
            "The cluster's API server cannot be reached. Is it running, and is the kubeconfig"
            " right?"
        ) from error


def _fault(code: int, status: Mapping[str, Any]) -> Exception:
    """Return what an answer other than "yes" means."""
    said = " ".join(str(status.get("message") or "").split())[:400]
    fault: Exception
    match code:
        case 400 if "waiting to start" in said or "not available" in said:
            fault = NotYet(said)
        case 401:
            fault = BackendUnavailable(
                "The cluster's API server does not know us (401): the credentials in the"
                " kubeconfig, or the token of the service account, are wrong or too old."
            )
        case 403:
            fault = Denied(f"The cluster does not allow this server what it needs: {said}")
        case 404:
            fault = NotThere(said)
        case 409 if "resourcequotas" in said:
            fault = Outage("The cluster is counting its quota just now.")  # it says: try again
        case 409:
            fault = Exists(said)
        case 410:
            fault = Expired(said)
        case 500 | 502 | 503 | 504 if "/containerLogs/" in said or f":{_KUBELET}:" in said:
            # It has asked the node for a log. Whose address that is is nobody's business.
            fault = Outage("The build's node does not answer.")
        case 429 | 500 | 502 | 503 | 504:
            fault = Outage(f"The cluster's API server cannot answer now ({code}). {said}".rstrip())
        case _:
            fault = BackendUnavailable(f"The cluster's API server refused ({code}): {said}")
    return fault
