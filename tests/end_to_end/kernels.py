"""A notebook server as who opens a notebook in it sees it."""

from __future__ import annotations

import json
import uuid
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import connect


async def open_notebook(url: str, token: str, code: str, *, within: float = 60.0) -> str:
    """Return what a cell prints, in a new kernel of the server at `url`."""
    headers = {"authorization": f"token {token}"}
    with anyio.fail_after(within):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            assert (await client.get("api/status")).status_code == 403
            status = await client.get("api/status", headers=headers)
            assert status.status_code == 200
            assert "started" in status.json()
            made = await client.post("api/kernels", headers=headers, json={})
            assert made.status_code == 201, made.text
        channels = httpx.URL(url).copy_with(scheme="ws").join(
            f"api/kernels/{made.json()['id']}/channels"
        )  # fmt: skip
        async with connect(str(channels), additional_headers=headers, proxy=None) as socket:
            await socket.send(json.dumps(_execute(code)))
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
