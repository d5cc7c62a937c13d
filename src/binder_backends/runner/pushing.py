"""``python -m binder_backends.runner.pushing``: pushes an image through the engine's own API.

One way for all generations of repo2docker: the engine tells bytes by layer, where ``docker buildx``
tells steps of five per cent, five seconds apart. It prints what ``repo2docker --json-logs`` of old
printed. Its last line is for the person who waits.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImagePush
(any later one as well)
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote

from binder_backends.runner.engine import (
    EngineAway,
    EngineRefused,
    add_arguments,
    check_answer,
    connect,
    faults,
    ping,
)
from binder_backends.runner.telling import tell_line

_FIRST_DELAY: Final = 1.0
_LAST_DELAY: Final = 15.0
_SHOWN: Final = 300

_REFUSED: Final = re.compile(
    r"denied|unauthorized|forbidden|authentication required|no basic auth|credentials|"
    r"insufficient_scope|quota|too large|name unknown|not found|\b40[0134]\b|\b413\b|"
    r"name_invalid|invalid reference|immutable",
    re.IGNORECASE,
)
_ABSENT: Final = re.compile(r"does not exist locally|tag does not exist", re.IGNORECASE)
_UNENCRYPTED: Final = re.compile(r"HTTP response to HTTPS client|x509:|certificate", re.IGNORECASE)
_OTHER_API: Final = re.compile(r"client version \S+ is too (?:old|new)", re.IGNORECASE)
_FULL: Final = "no space left on device"


class PushFailed(Exception):
    """There is no use in trying again; the message is for the person who waits."""


class TryAgain(Exception):
    """The registry, or the way to it, is not there for now; says what was answered."""


_Attempt: TypeAlias = Callable[[], Iterator[Mapping[str, Any]]]


def main(arguments: list[str] | None = None) -> int:
    """Push the image that the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m binder_backends.runner.pushing")
    parser.add_argument("--image", required=True)
    add_arguments(parser)
    parser.add_argument("--config", default="", help="a Docker config.json with the login")
    parser.add_argument("--retry-for", type=float, default=120.0, metavar="SECONDS")
    given = parser.parse_args(arguments)
    try:
        auth = read_auth(given.config)
        push_until(
            given.image,
            lambda: push(given.image, auth, host=given.host, certs=given.certs),
            given.retry_for,
        )
    except (PushFailed, EngineRefused) as failure:
        _tell(str(failure))
        return 1
    return 0


def push_until(
    image: str,
    attempt: _Attempt,
    retry_for: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Push, and again where the registry or the engine is away, until it was so for too long.

    Args:
        image: What is pushed, for messages.
        attempt: Starts the push and gives what the engine says of it.
        retry_for: Seconds, counted from the last progress.
        clock: Returns the time.
        sleep: Waits.

    Raises:
        PushFailed: The image is not in the registry.
        EngineRefused: The engine cannot be asked.
    """
    host = image.partition("/")[0]
    last, delay = clock(), _FIRST_DELAY
    while True:
        try:
            for said in attempt():
                if tell(said):
                    last, delay = clock(), _FIRST_DELAY
        except (TryAgain, EngineAway) as away:
            left = last + retry_for - clock()
            if left <= 0:
                raise _given_up(host, away, retry_for) from away
            pause = min(delay, left)
            what = f"The registry {host} does not take the image"
            if isinstance(away, EngineAway):
                what = "The Docker engine does not answer"
            _tell(f"{what} ({away}); again in {pause:.0f} s")
            sleep(pause)
            delay = min(2 * delay, _LAST_DELAY)
        else:
            _tell(f"Successfully pushed {image}")
            return


def _given_up(host: str, away: Exception, retry_for: float) -> PushFailed:
    if isinstance(away, EngineAway):
        return PushFailed(
            f"The Docker engine has not answered for {retry_for:g} s while the image was pushed:"
            f" {away}. Is it running? Ask again: what was built is kept."
        )
    return PushFailed(
        f"The registry {host} has not taken the image for {retry_for:g} s: {away}."
        " Is it running, and can the engine reach it? Ask again: what was built is kept."
    )


def push(
    image: str, auth: Mapping[str, str], *, host: str, certs: str = ""
) -> Iterator[Mapping[str, Any]]:
    """Push once, and give what the engine says.

    Args:
        image: What is pushed.
        auth: The registry's login.
        host: The engine's address; see `connect`.
        certs: Its certificates.

    Raises:
        PushFailed: The registry will never take it.
        TryAgain: It may, later.
        EngineRefused: The engine cannot be asked.
        EngineAway: It can, later.
    """
    name, _, tag = image.rpartition(":")
    header = base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
    api = ping(host, certs)
    connection = connect(host, certs)
    try:
        with faults():
            connection.request(
                "POST",
                f"/v{api}/images/{quote(name, safe='/:')}/push?tag={quote(tag, safe='')}",
                headers={"x-registry-auth": header},
            )
            reply = connection.getresponse()
            refusal = b"" if reply.status == 200 else reply.read()
        if reply.status != 200:
            check_answer(reply.status, refusal.decode(errors="replace"))
            _fail(image, _message(refusal) or f"the engine answered {reply.status}")
        ended = False
        while line := _line(reply):
            said = _object(line)
            if "error" in said or "errorDetail" in said:
                detail = said.get("errorDetail")
                text = detail.get("message") if isinstance(detail, dict) else None
                _fail(image, str(text or said.get("error")))
            ended = ended or "aux" in said or "digest: " in str(said.get("status"))
            yield said
    finally:
        connection.close()
    if not ended:
        # A connection that broke ends the stream as a push that is complete does.
        raise EngineAway("it stopped telling how the push goes")


def _line(reply: HTTPResponse) -> bytes:
    with faults():
        return reply.readline()


def tell(said: Mapping[str, Any]) -> bool:
    """Print what the engine says of a layer; return whether that is progress."""
    layer, status = said.get("id"), said.get("status")
    if not isinstance(layer, str) or not isinstance(status, str):
        return False
    detail = said.get("progressDetail")
    current = detail.get("current") if isinstance(detail, dict) else None
    if isinstance(current, int):
        total = detail.get("total") if isinstance(detail, dict) else None
        of = f" of {_megabytes(total)}" if isinstance(total, int) else ""
        # It compares what it sends with the size before packing: it can send more.
        current = min(current, total) if isinstance(total, int) else current
        _tell(f"{status} {layer}: {_megabytes(current)}{of}", {layer: detail})
        return True
    if status.startswith(("Pushed", "Layer already exists", "Mounted from")):
        _tell(f"{status}: {layer}", {layer: status})
        return True
    return False  # "Preparing", "Waiting"


def read_auth(config: str) -> dict[str, str]:
    """Return the login in a Docker ``config.json``, as the engine wants it."""
    try:
        auths = json.loads(Path(config).read_bytes())["auths"] if config else {}
        # One login: whoever wrote the file left out all others.
        none: tuple[str, dict[str, str]] = ("", {})
        host, entry = next(iter(auths.items()), none)
        user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
        token = entry.get("identitytoken", "")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise PushFailed(
            "The registry's login, which the builder was given, cannot be read."
        ) from error
    if token:
        return {"identitytoken": token, "serveraddress": host}
    if not user and not password:
        return {}
    return {"username": user, "password": password, "serveraddress": host}


def _fail(image: str, said: str) -> NoReturn:
    host = image.partition("/")[0]
    said = " ".join(said.split())[:_SHOWN].rstrip(".")
    if _ABSENT.search(said):
        raise PushFailed(
            f"The build came to its end, and the engine has no image {image}. Does the builder"
            " image push or export elsewhere (extra_args)?"
        )
    if _OTHER_API.search(said):
        raise PushFailed(
            f"The Docker engine does not take the call that pushes the image: {said}. Is there"
            " something between it and the builds that answers for another version?"
        )
    if _FULL in said.lower():
        raise PushFailed(
            f"The image cannot be pushed: no space is left on the disk of the engine or of the"
            f" registry {host}. Make room there."
        )
    if _UNENCRYPTED.search(said):
        raise PushFailed(
            f"The engine and the registry {host} do not agree on encryption: {said}. Give the"
            " registry a certificate that the engine trusts, or list it in the engine's"
            " insecure-registries."
        )
    if _REFUSED.search(said):
        raise PushFailed(
            f"The registry {host} refused the push: {said}. Is there a login for it that may push,"
            " and does it take images of this name?"
        )
    raise TryAgain(said)


def _tell(message: str, progress: Mapping[str, Any] | None = None) -> None:
    tell_line("pushing", message, progress)


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _message(body: bytes) -> str:
    return str(_object(body).get("message", ""))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
