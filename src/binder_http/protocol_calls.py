"""Clients of any declared API: what `binder_core.protocol` decides, carried over HTTP.

The clients of the older Binder protocol are in `binder_http.protocol_client`.
"""

from __future__ import annotations

import inspect
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import anyio
import httpx

from binder_core.protocol import (
    Endpoint,
    Failure,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Protocol,
    Shape,
    class_name,
    failure,
    failure_class,
    fill,
    interpret,
    python_name,
)
from binder_core.protocol.failures import (
    BAD_RESPONSE,
    FALLBACKS,
    GENERIC,
    MALFORMED,
    REFUSED,
    TIMEOUT,
)
from binder_http.protocol_docs import shape_text

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that a request may take altogether."""

_LARGEST_ANSWER_BYTES: Final = 64 * 1024 * 1024
_DIRECT: Final = ("all://localhost", "all://127.0.0.1", "all://[::1]")
"""No proxy leads to this machine."""

_HOST: Final = re.compile(r"[\w.:%-]+")

_TYPES: Final[Mapping[Kind, Any]] = MappingProxyType(
    {Kind.STRING: str, Kind.NUMBER: float, Kind.BOOLEAN: bool}
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where requests go."""

    base: str
    host: str
    """As a message shows it."""
    port: int


@dataclass(frozen=True, slots=True)
class _Sending:
    """A request with all that httpx needs."""

    endpoint: Endpoint
    place: _Place
    method: str
    url: str
    body: bytes | None
    values: dict[str, object]
    """The parameters, and where they go; for the texts of errors."""
    headers: dict[str, str] = field(repr=False)


class Calls:
    """The endpoints of one group as functions.

    Args:
        group: The group.
        make: Returns the function of an endpoint.
    """

    def __init__(self, group: Group, make: Callable[[Endpoint], Callable[..., Any]]) -> None:
        self._functions = {}
        for endpoint in group.endpoints:
            function = make(endpoint)
            function.__name__ = python_name(endpoint.name)
            function.__qualname__ = f"{python_name(group.name)}.{function.__name__}"
            self._functions[function.__name__] = function
        self.__doc__ = f"``{group.name}``: {', '.join(self._functions)}."

    def __getattr__(self, name: str) -> Any:
        """Return the function of that name."""
        functions: dict[str, Callable[..., Any]] = self.__dict__.get("_functions", {})
        if name in functions:
            return functions[name]
        raise AttributeError(f"there is no {name!r}; there are: {', '.join(functions)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._functions]


class Errors:
    """The declared errors of an API, as exceptions by their names: ``errors.NoDatabase``."""

    def __init__(self, protocol: Protocol) -> None:
        self._classes = {class_name(name): failure_class(name) for name in error_names(protocol)}

    def __getattr__(self, name: str) -> type[Failure]:
        """Return the exception of that name."""
        classes: dict[str, type[Failure]] = self.__dict__.get("_classes", {})
        if name in classes:
            return classes[name]
        raise AttributeError(f"there is no error {name!r}; there are: {', '.join(classes)}")

    def __iter__(self) -> Iterator[type[Failure]]:
        """Iterate over all of them."""
        return iter(self._classes.values())

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._classes]


class _Base:
    """What both clients know, and decide without talking to anybody."""

    def __init__(
        self,
        protocol: Protocol,
        host: str | None,
        port: int | None,
        api_key: str | None,
        timeout: float,
    ) -> None:
        self.protocol = protocol
        """What this client was made from."""
        self.errors = Errors(protocol)
        """The exceptions of its functions."""
        self._host, self._port, self._api_key = host, port, api_key
        self._timeout = timeout
        self._groups = {
            python_name(group.name): Calls(group, self._made) for group in protocol.groups
        }

    def __getattr__(self, name: str) -> Any:
        """Return the functions of the group of that name."""
        groups: dict[str, Calls] = self.__dict__.get("_groups", {})
        # A group may be called like something that clients have themselves.
        found = groups.get(name) or groups.get(name.removesuffix("_"))
        if found is None:
            raise AttributeError(f"there is no group {name!r}; there are: {', '.join(groups)}")
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._groups]

    def function(self, name: str) -> Callable[..., Any]:
        """Return the function of an endpoint by its declared name, e.g. ``build.statusAll``.

        Raises:
            KeyError: There is no such endpoint.
        """
        endpoint = self.protocol.endpoint(name)
        calls = self._groups[python_name(name.partition(".")[0])]
        made: Callable[..., Any] = getattr(calls, python_name(endpoint.name))
        return made

    def _made(self, endpoint: Endpoint) -> Callable[..., Any]:
        raise NotImplementedError

    def _prepared(self, endpoint: Endpoint, given: dict[str, Any]) -> _Sending:
        host = given.pop("host", None) or self._host
        port = given.pop("port", None) or self._port
        key = given.pop("api_key", None) or self._api_key
        names = {python_name(param.name): param.name for param in endpoint.params}
        values = {names.get(name, name): value for name, value in given.items()}
        call = fill(self.protocol, endpoint, values)
        try:
            place = _place(host, port)
            # Kept open, a connection would be closed by the server just as the next request goes
            # out, now and then; nobody could say then whether that one was heard.
            headers = {"accept": "application/json", "connection": "close"}
            if call.body is not None:
                headers["content-type"] = "application/json"
            # Where an endpoint needs none, the operator may still want one.
            if call.authorized or key is not None:
                headers["authorization"] = _key(key)
        except ValueError as error:
            raise failure(self.protocol, endpoint, MALFORMED, detail=str(error)) from None
        url = place.base + call.target
        shown = {**values, "host": place.host, "port": place.port}
        return _Sending(endpoint, place, call.method, url, call.body, shown, headers)

    def _result(self, sending: _Sending, status: int, body: bytes) -> Any:
        return interpret(self.protocol, sending.endpoint, status, body, sending.values)

    def _trouble(self, sending: _Sending, error: Exception) -> Failure:
        """Return the declared error for a request without a whole answer."""
        place = sending.place
        match error:
            case TimeoutError() | httpx.TimeoutException():
                name, detail, said = TIMEOUT, "", ""
            case httpx.ConnectError() if _never_asked(error):
                name, detail, said = GENERIC, "", f"no way to {place.host}: {_words(error)}"
            case httpx.ConnectError():
                name, detail, said = REFUSED, "", ""
            case httpx.RemoteProtocolError() | httpx.DecodingError() | _TooLarge():
                name, detail, said = BAD_RESPONSE, _words(error), ""
            case _:
                name, detail, said = GENERIC, "", f"the connection failed: {_words(error)}"
        values = {**sending.values, "error": said}
        return failure(self.protocol, sending.endpoint, name, values, detail=detail)


class ProtocolClient(_Base):
    """Asks a server for what a protocol declares: ``await client.<group>.<endpoint>(…)``.

    Args:
        protocol: The API.
        host: The server's name or address, or a URL with the path under which it serves; for
            functions that are not told.
        port: Its port, likewise; that of the URL if None.
        api_key: What shows the server who asks, likewise.
        timeout: Seconds that a request may take altogether.
        http: An `httpx.AsyncClient` to use, e.g. one with certificates of yours; it is not closed.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(protocol, host, port, api_key, timeout)
        self._owned = http is None
        self._http = http or httpx.AsyncClient(mounts=dict.fromkeys(_DIRECT))

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._owned:
            await self._http.aclose()

    def _made(self, endpoint: Endpoint) -> Callable[..., Any]:
        async def function(**given: Any) -> Any:
            return await self._call(endpoint, given)

        return _described(function, self.protocol, endpoint)

    async def _call(self, endpoint: Endpoint, given: dict[str, Any]) -> Any:
        sending = self._prepared(endpoint, given)
        body = bytearray()
        try:
            with anyio.fail_after(self._timeout):
                async with self._http.stream(
                    sending.method,
                    sending.url,
                    content=sending.body,
                    headers=sending.headers,
                    timeout=self._timeout,
                ) as response:
                    async for piece in response.aiter_bytes():
                        _take(body, piece)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, _TooLarge) as error:
            raise self._trouble(sending, error) from error
        return self._result(sending, response.status_code, bytes(body))


class BlockingProtocolClient(_Base):
    """`ProtocolClient` for code without an event loop: same arguments, results and errors."""

    def __init__(
        self,
        protocol: Protocol,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        http: httpx.Client | None = None,
    ) -> None:
        super().__init__(protocol, host, port, api_key, timeout)
        self._owned = http is None
        self._http = http or httpx.Client(mounts=dict.fromkeys(_DIRECT))

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._owned:
            self._http.close()

    def _made(self, endpoint: Endpoint) -> Callable[..., Any]:
        def function(**given: Any) -> Any:
            return self._call(endpoint, given)

        return _described(function, self.protocol, endpoint)

    def _call(self, endpoint: Endpoint, given: dict[str, Any]) -> Any:
        sending = self._prepared(endpoint, given)
        body = bytearray()
        late = time.monotonic() + self._timeout
        try:
            with self._http.stream(
                sending.method,
                sending.url,
                content=sending.body,
                headers=sending.headers,
                timeout=self._timeout,
            ) as response:
                for piece in response.iter_bytes():
                    _take(body, piece)
                    if time.monotonic() > late:
                        raise TimeoutError
        except (httpx.HTTPError, httpx.InvalidURL, OSError, _TooLarge) as error:
            raise self._trouble(sending, error) from error
        return self._result(sending, response.status_code, bytes(body))


def error_names(protocol: Protocol) -> list[str]:
    """Return the declared names of all errors that a client can meet, each once."""
    cases = [case for _, endpoint in protocol for case in endpoint.response.errors]
    return list(dict.fromkeys(case.name for case in (*cases, *protocol.errors, *FALLBACKS)))


def docstring(protocol: Protocol, endpoint: Endpoint) -> str:
    """Return the docstring of an endpoint's function."""
    told = {param.name: param.description for param in protocol.params}
    arguments = [(python_name(param.name), param.description) for param in endpoint.params]
    arguments += [(python_name(name), told.get(name, "")) for name in ("host", "port", "api-key")]
    raised = [(class_name(case.name), case.msg) for case in endpoint.response.errors]
    lines = [
        f"{endpoint.description or endpoint.name}.",
        "",
        f"{endpoint.request.method} {endpoint.path}"
        + (", with an API key" if endpoint.request.authorized else ""),
        "",
        "Args:",
        *(f"    {name}: {text}" for name, text in arguments),
        "",
        "Returns:",
        f"    {shape_text(endpoint.response.body)}",
        "",
        "Raises:",
        *(f"    {name}: {text}" for name, text in raised),
        "    Failure: One of the errors that every request can have.",
        "",
    ]
    return "\n".join(line.rstrip() for line in lines)


def signature(endpoint: Endpoint) -> inspect.Signature:
    """Return the signature of an endpoint's function."""
    made = []
    for param in endpoint.params:
        kind = _TYPES[param.type]
        default = inspect.Parameter.empty if param.required else None
        made.append(
            _keyword(python_name(param.name), kind if param.required else kind | None, default)
        )
    globals_ = (("host", str), ("port", int), ("api_key", str))
    made += [_keyword(name, kind | None, None) for name, kind in globals_]
    return inspect.Signature(made, return_annotation=_returned(endpoint.response.body))


def _returned(shape: Shape | None) -> Any:
    match shape:
        case Fields() | Kind.OBJECT:
            return dict[str, Any]
        case Items(of):
            return list[_returned(of)]  # type: ignore[misc] # made at run time
        case None:
            return Any
        case Maybe(kind):
            return _returned(kind) | None
        case Kind():
            return _TYPES.get(shape, str)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _described(
    function: Callable[..., Any], protocol: Protocol, endpoint: Endpoint
) -> Callable[..., Any]:
    made = signature(endpoint)
    function.__doc__ = docstring(protocol, endpoint)
    function.__annotations__ = {each.name: each.annotation for each in made.parameters.values()}
    function.__annotations__["return"] = made.return_annotation
    vars(function)["__signature__"] = made
    return function


class _TooLarge(Exception):
    """An answer that nobody would want in memory."""


def _take(body: bytearray, piece: bytes) -> None:
    body += piece
    if len(body) > _LARGEST_ANSWER_BYTES:
        raise _TooLarge(f"it has more than {_LARGEST_ANSWER_BYTES // 1024**2} MiB")


def _place(host: object, port: object) -> _Place:
    """Return where a request goes.

    Raises:
        ValueError: Nowhere; it says why.
    """
    if not isinstance(host, str) or not host.strip():
        raise ValueError("host is missing" if host is None else "host is no text")
    text = host.strip()
    if "://" not in text:
        # An IPv6 address has more than one colon, and no brackets where nothing follows it.
        text = f"http://[{text}]" if text.count(":") > 1 and "[" not in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        name, own = parts.hostname or "", parts.port
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        raise ValueError("host is no name or address") from None
    extra = parts.username is not None or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(name) or extra:
        # Not shown: it may hold a password.
        raise ValueError("host is a name, an address, or a URL with http:// or https://")
    usual = {"http": 80, "https": 443}[parts.scheme] if "://" in host else None
    number = port if port is not None else own if own is not None else usual
    if number is None:
        raise ValueError("port is missing")
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise ValueError("port is a number from 1 to 65535")
    bare = f"[{name}]" if ":" in name else name
    return _Place(f"{parts.scheme}://{bare}:{number}{parts.path.rstrip('/')}", bare, number)


def _key(key: object) -> str:
    """Return the API key as a header.

    Raises:
        ValueError: It cannot be one. The message does not hold it.
    """
    if not isinstance(key, str) or not key:
        raise ValueError("api-key is missing")
    if any(not " " <= char <= "~" for char in key) or key != key.strip():
        raise ValueError("api-key holds what no header can: was it copied whole?")
    return key


def _never_asked(error: BaseException) -> bool:
    """Return whether a connection failed for its name or its certificate, not for the server."""
    return any(isinstance(cause, socket.gaierror | ssl.SSLError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
