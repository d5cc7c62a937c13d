"""``git ls-remote``, with nothing of ours in its reach.

It runs in an empty directory with a small environment of its own: no configuration of the system
or a user, no credentials, no prompts, one allowed protocol. It connects to the address that was
checked, follows no redirect by itself, and its time and output are bounded.

Sources: https://git-scm.com/docs/git, https://git-scm.com/docs/git-config (``http.curloptResolve``)
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Final
from urllib.parse import SplitResult, urlsplit

import anyio
from anyio.abc import ByteReceiveStream

from binder_backends.asker.guard import Guard, NotAllowed
from binder_backends.asker.http import Broken, Fetcher
from binder_backends.asker.settings import AskerSettings
from binder_core.plugin import (
    BackendUnavailable,
    GitLsRemote,
    GitRefs,
    HttpGet,
    ProviderUnavailable,
    RefNotFound,
)

_PORTS: Final = {"http": 80, "https": 443, "git": 9418, "ssh": 22}
_OUTPUT_CAP: Final = 4 * 2**20
_ERROR_CAP: Final = 64 * 2**10
_LINE: Final = re.compile(r"([0-9a-f]{40}(?:[0-9a-f]{24})?)\t(\S+)")
_REDIRECTED: Final = re.compile(r"returned error: 30[12378]")
_MISSING: Final = re.compile(
    r"not found|could not read Username|Authentication failed|returned error: 40[1-4]"
    r"|does not appear to be a git|is this a git repository|access denied|no such repository"
    r"|Permission denied|does not exist",
    re.IGNORECASE,
)
_PASSED_ON: Final = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "TMPDIR")
_INFO: Final = "/info/refs?service=git-upload-pack"


class GitAsker:
    """Asks repositories for their refs.

    Args:
        settings: The operator's.
        guard: Says whom we may talk to.
        fetcher: Finds out where a repository's redirect leads.
        directory: An empty directory that git may call its home.
    """

    def __init__(
        self, settings: AskerSettings, guard: Guard, fetcher: Fetcher, directory: Path
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._fetcher = fetcher
        self._directory = directory
        self._limiter = anyio.CapacityLimiter(settings.max_gits)

    async def refs(self, question: GitLsRemote, now: float) -> GitRefs:
        """Return the refs of a repository.

        Raises:
            RefNotFound: There is no such repository, or it is not public.
            NotAllowed: It is not asked.
            ProviderUnavailable: It did not say.
        """
        async with self._limiter:
            url = question.url
            status, output, errors = await self._run(url, question.patterns)
            if status and _REDIRECTED.search(errors):
                url = await self._moved(url, now)
                status, output, errors = await self._run(url, question.patterns)
        if status:
            raise _failure(question.url, errors)
        return GitRefs({match[2]: match[1] for match in _LINE.finditer(output)})

    async def _moved(self, url: str, now: float) -> str:
        """Return where the repository at a URL lives now, on the same host."""
        reply = await self._fetcher.get(HttpGet(url.rstrip("/") + _INFO, head=True), None, now)
        moved, _, _ = reply.url.partition("/info/refs")
        return moved

    async def _run(self, url: str, patterns: tuple[str, ...]) -> tuple[int, str, str]:
        parts = _parts(url)
        options, more = await self._reach(parts)
        if address := more.pop("address", ""):
            url = parts._replace(netloc=address).geturl()
        command = [
            self._settings.git,
            *options,
            # What a person typed stands behind the dashes, and is no option.
            *("ls-remote", "--quiet", "--", url, *patterns),
        ]
        environment = self._environment(parts.scheme) | more
        return await self._output(command, environment)

    async def _reach(self, parts: SplitResult) -> tuple[list[str], dict[str, str]]:
        """Return the options and the environment with which git connects where it may."""
        scheme, host = parts.scheme, parts.hostname or ""
        if scheme == "file" and self._settings.allow_file_urls and not host:
            return [], {}
        if scheme not in _PORTS or not host:
            raise NotAllowed(f"Repositories are not looked at by {scheme or 'such'} URLs here.")
        port = parts.port or _PORTS[scheme]
        addresses = [_bracketed(each) for each in await self._guard.addresses(host, port)]
        if scheme == "git":
            # It asks for no option: git is given the address, and told whom to ask for.
            return [], {
                "address": f"{addresses[0]}:{port}",
                "GIT_OVERRIDE_VIRTUAL_HOST": parts.netloc,
            }
        if scheme == "ssh":
            return [], {"GIT_SSH_COMMAND": self._ssh(host, addresses[0])}
        pinned = f"{_bracketed(host)}:{port}:{','.join(addresses)}"
        return [
            *("-c", f"http.curloptResolve={pinned}"),
            *("-c", "http.followRedirects=false"),
        ], {}

    def _ssh(self, host: str, address: str) -> str:
        known, key = self._settings.ssh_known_hosts, self._settings.ssh_key
        options = {
            "BatchMode": "yes",
            "HostName": address.strip("[]"),
            "HostKeyAlias": host,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": known or "/dev/null",
            "StrictHostKeyChecking": "yes" if known else "no",
            "LogLevel": "ERROR",
        }
        words = ["ssh", "-F", "/dev/null", *(["-i", key] if key else [])]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return shlex.join(words)

    def _environment(self, scheme: str) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        home = str(self._directory)
        return inherited | {
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "GIT_CEILING_DIRECTORIES": home,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": scheme,
            "LC_ALL": "C",
        }

    async def _output(
        self, command: list[str], environment: Mapping[str, str]
    ) -> tuple[int, str, str]:
        try:
            # Shielded: whoever is cancelled while it starts would have nothing to end it by.
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(
                    command,
                    stdin=DEVNULL,
                    stdout=PIPE,
                    stderr=PIPE,
                    cwd=self._directory,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise BackendUnavailable(
                f"git cannot be run ({self._settings.git}): install it, or name it in the settings."
            ) from error
        output, errors = bytearray(), bytearray()
        try:
            async with anyio.create_task_group() as group:

                async def read(stream: ByteReceiveStream, into: bytearray, most: int) -> None:
                    async for chunk in stream:
                        into += chunk
                        if len(into) > most:
                            group.cancel_scope.cancel()

                if process.stdout is None or process.stderr is None:
                    raise AssertionError  # both are pipes
                group.start_soon(read, process.stdout, output, _OUTPUT_CAP)
                group.start_soon(read, process.stderr, errors, _ERROR_CAP)
            if len(output) > _OUTPUT_CAP or len(errors) > _ERROR_CAP:
                raise NotAllowed("The repository listed more refs than are read.")
            status = await process.wait()
        finally:
            # git's helpers are of the same session, and end with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.aclose()
        return status, output.decode(errors="replace"), errors.decode(errors="replace")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        _ = parts.port
    except ValueError as error:
        raise NotAllowed("The URL of the repository is malformed.") from error
    if parts.netloc.startswith("-") or (parts.hostname or "").startswith("-"):
        raise NotAllowed("The URL of the repository is malformed.")
    return parts


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if isinstance(ip_address(host), IPv6Address) else host
    except ValueError:
        return host


def _failure(url: str, errors: str) -> ProviderUnavailable | RefNotFound:
    if _MISSING.search(errors):
        return RefNotFound(
            f"There is no repository at {url}, or it is not public. Check the spelling."
        )
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("fatal:")), lines[-1] if lines else "")
    shown = "".join(char for char in said[:300] if char.isprintable())
    return Broken(f"The repository {url} could not be asked: {shown or 'git did not say why'}")
