"""A notebook server as who opens a notebook in it sees it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect


async def open_notebook(url: str, token: str, code: str, *, within: float = 60.0) -> str:
    """Return what a cell prints, in a new kernel of the server at `url`."""
    headers = {"authorization": f"token {token}"}
    with anyio.fail_after(within):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            assert (await client.get("api/status")).status_code == 403
            status = await client.get("api/status", headers=headers)
            assert status.status_code == 200
            assert "started" in status.json()
        async with _running(url, headers, code) as socket:
            printed = ""
            async for text in socket:
                message: dict[str, Any] = json.loads(text)
                content = message["content"]
                match message["msg_type"]:
                    case "stream":
                        printed += content["text"]
                    case "error":
                        raise AssertionError("\n".join(content["traceback"]))
                    case "execute_reply":
                        assert content["status"] == "ok"
                    case "status" if content["execution_state"] == "idle" and printed:
                        return printed
    raise AssertionError(f"the kernel left, having printed {printed!r}")


async def keep_busy(url: str, token: str) -> None:
    """Return when a cell runs that takes an hour, in a new kernel of the server at `url`."""
    headers = {"authorization": f"token {token}"}
    with anyio.fail_after(60):
        async with _running(url, headers, "import time; print(1); time.sleep(3600)") as socket:
            async for text in socket:
                if json.loads(text)["msg_type"] == "stream":
                    return
    raise AssertionError("the kernel left")


async def kernels(url: str, token: str) -> list[str]:
    """Return in which state each kernel of the server at `url` is."""
    headers = {"authorization": f"token {token}"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        listed = await client.get("api/kernels", headers=headers)
        return [each["execution_state"] for each in listed.json()]


@asynccontextmanager
async def _running(url: str, headers: dict[str, str], code: str) -> AsyncIterator[ClientConnection]:
    """Have a new kernel run a cell; give the connection that tells of it."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        made = await client.post("api/kernels", headers=headers, json={})
        assert made.status_code == 201, made.text
    path = f"api/kernels/{made.json()['id']}/channels"
    channels = httpx.URL(url).copy_with(scheme="ws").join(path)
    async with connect(str(channels), additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps(_execute(code)))
        yield socket


def _execute(code: str) -> dict[str, Any]:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "test",
        "session": uuid.uuid4().hex,
        "date": "2026-01-01T00:00:00Z",
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    return {
        "channel": "shell",
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }
