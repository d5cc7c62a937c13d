"""A Binder server as its clients know it: where it is, what it wants to see, what its answers mean.

No text made here holds the token, nor a password of the URL.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import httpx
import msgspec

from binder_core.errors import BinderError, BuildFailed, ConfigError, LaunchFailed
from binder_core.events import Built, Event, Failed, Ready
from binder_core.ordering import LOG

_KEPT: Final = "/%:@!$&'()*+,;=~"
"""What stands for itself in a spec; letters, digits and ``_.-`` do anyway."""

_SHOWN: Final = 200
_LOOPBACK: Final = ("localhost", "127.", "::1")


class Remote:
    """A Binder server.

    Args:
        url: Its base URL; a token in its query (``?token=…``) is taken from there.
        token: What it wants to see. It goes before that of the URL.

    Raises:
        ConfigError: The URL or the token is none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigError(f"the server's URL is none: {error}", status=400) from None
        if parts.scheme not in ("http", "https") or not host:
            hint = "" if "://" in url else f"; did you mean http://{_plain(url, 80)}?"
            raise ConfigError(
                "a server's URL looks like https://binder.example or http://127.0.0.1:8585, "
                f"this one does not start with http:// or https:// and a host{hint}",
                status=400,
            )
        self._token = token or parse_qs(parts.query).get("token", [""])[0]
        if any(not "!" <= char <= "~" for char in self._token):
            raise ConfigError(
                "the token holds a space or a character outside ASCII: was it copied whole?",
                status=400,
            )
        path = parts.path.rstrip("/")
        bare = f"[{host}]" if ":" in host else host
        netloc = bare if port is None else f"{bare}:{port}"
        self.shown = urlunsplit((parts.scheme, netloc, path, "", ""))
        """The URL as messages may show it."""
        self._base = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self.loopback = host.startswith(_LOOPBACK)
        """Whether it is on this machine: no proxy leads there."""
        self.headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        """What shows the server who asks."""

    def url(self, path: str) -> str:
        """Return the URL of a path below the server's own."""
        return f"{self._base}/{path}"

    def build_url(self, spec: str, *, build_only: bool) -> str:
        """Return the URL that `spec` is asked for at; escapes in it are kept."""
        path = quote(spec.strip("/"), safe=_KEPT, errors="replace")
        path = re.sub("%(?![0-9A-Fa-f]{2})", "%25", path)
        # Dots alone between slashes would be taken for a way up.
        path = "/".join(part.replace(".", "%2E") if part in {".", ".."} else part
                        for part in path.split("/"))  # fmt: skip
        return f"{self._base}/build/{path}" + ("?build_only=true" if build_only else "")

    def log_url(self, name: str, *, image: str = "", follow: bool) -> str:
        """Return the URL of the log of a build; `image` is what it makes, where that is known."""
        query = {"follow": "true" if follow else "false"} | ({"image": image} if image else {})
        return self.url(f"api/builds/{quote(name, safe='')}/log?{urlencode(query)}")

    def no_connection(self, error: httpx.HTTPError) -> str:
        """Return what went wrong with a connection, in words."""
        match error:
            case httpx.ConnectTimeout():
                said = "the connection was not made in time"
            case httpx.ConnectError():
                said = f"no connection ({error})"
            case httpx.ReadTimeout():
                said = "the connection went silent"
            case httpx.RemoteProtocolError():
                said = f"the stream broke off ({error})"
            case _:
                said = f"the connection failed ({type(error).__name__}: {error})"
        return self._hide(said)

    def answer(self, response: httpx.Response, body: bytes) -> str:
        """Return what an answer that is no event stream says, and what to try."""
        status = response.status_code
        if message := _message(body):
            return self._hide(f"{self.shown}: {message}")
        if response.headers.get("content-type", "").startswith("text/html"):
            what = "an HTML page"
        else:
            what = response.headers.get("content-type", "").partition(";")[0] or "no content type"
        words = _words(body.decode("utf-8", "replace"))
        said = f"{self.shown} answered {status} with {what}, no event stream"
        return self._hide(f"{said}: {words}" if words else said) + f". {self._try(response)}"

    def _try(self, response: httpx.Response) -> str:
        match response.status_code:
            case 401 | 403 if self._token:
                return "It does not accept this token."
            case 401 | 403:
                return "It wants a token: that which it printed at its start, or its operator gave."
            case 429:
                wait = response.headers.get("retry-after", "")
                return (
                    f"Too many requests: try again {f'in {wait} s' if wait.isdigit() else 'later'}."
                )
            case status if status >= 500:
                return "Trouble on its side: try again later."
            case _:
                return "Is this the base URL of a Binder server, without /build or /v2?"

    def _hide(self, text: str) -> str:
        text = _plain(text, 500)
        return text.replace(self._token, "…") if self._token else text


class Outcome:
    """What the events of a request come to."""

    def __init__(self) -> None:
        self._ready: Ready | None = None
        self._error: BinderError | None = None
        self._built = self._began = False

    def take(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Ready():
                self._ready = event
            case Built():
                self._built = True
            case Failed(message=message, status_code=code):
                status = code if isinstance(code, int) else None
                kind = LaunchFailed if self._built else BuildFailed if self._began else BinderError
                self._error = kind(message.strip(), status=status)
            case _:
                self._began = self._began or event.phase in LOG

    def result(self) -> Ready:
        """Return the good end.

        Raises:
            BinderError: There was none.
        """
        if self._ready is not None:
            return self._ready
        raise self._error or BinderError("The server says that this request has ended before.")


def _message(body: bytes) -> str:
    """Return what a server of ours says that it refuses with; empty where it is none of ours."""
    try:
        message = msgspec.json.decode(body)["message"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""
    return message if isinstance(message, str) else ""


def _words(text: str) -> str:
    if title := re.search(r"<title[^>]*>(.*?)</title>", text, re.DOTALL | re.IGNORECASE):
        text = title[1]
    return _plain(re.sub(r"<[^>]*>", " ", text), _SHOWN)


def _plain(text: str, length: int) -> str:
    """Return `text` on one line, without anything that a terminal takes for an order."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= length else line[:length] + "…"
