from __future__ import annotations

import subprocess
import sys

import anyio
import pytest

from binder_backends.asker import AskerSettings, HttpGitAsker
from binder_core.errors import ProviderUnavailable
from binder_core.plugin import Answer, HttpGet, HttpReply, Question
from binder_http.late import LateAsker

SLOW = {"apispec", "cryptography", "httpcore", "httpx", "jwt", "prometheus_client", "rich", "trio"}

STARTED = """
import sys
from binder_http import app, assembly, config, server
made = config.load(env={}, flags={"builder.kind": "fake", "security.key": "k" * 32})
app.create_app(made)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_server_starts_without_the_slow_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "quart" in loaded
    assert not SLOW & loaded


@pytest.mark.anyio
async def test_it_asks_as_the_asker_does() -> None:
    async with LateAsker(AskerSettings(tries=1)) as asker:
        assert asker.rate_limits == {}
        with pytest.raises(ProviderUnavailable):
            await asker.ask(HttpGet("http://127.0.0.1:9/"))


@pytest.mark.anyio
async def test_however_many_ask_first_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[HttpGitAsker] = []
    enter = HttpGitAsker.__aenter__

    async def counted(self: HttpGitAsker) -> HttpGitAsker:
        entered.append(self)
        return await enter(self)

    async def answer(self: HttpGitAsker, question: Question) -> Answer:
        await anyio.lowlevel.checkpoint()
        return HttpReply(200, "u")

    monkeypatch.setattr(HttpGitAsker, "__aenter__", counted)
    monkeypatch.setattr(HttpGitAsker, "ask", answer)
    async with LateAsker(AskerSettings()) as asker, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(asker.ask, HttpGet("u"))
    assert len(entered) == 1


@pytest.mark.anyio
async def test_it_is_let_go_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    leave = HttpGitAsker.__aexit__

    async def noted(self: HttpGitAsker, *args: None) -> None:
        left.append(True)
        await leave(self, *args)

    monkeypatch.setattr(HttpGitAsker, "__aexit__", noted)
    async with LateAsker(AskerSettings(tries=1)) as asker:
        with pytest.raises(ProviderUnavailable):
            await asker.ask(HttpGet("http://127.0.0.1:9/"))
        assert not left
    assert left == [True]
