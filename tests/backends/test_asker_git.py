"""``git ls-remote``: real repositories, and programs that pretend to be git."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from hostile import PRIVATE, SERVER, Server, answer, everywhere, make_asker, served

from binder_backends.asker import NotAllowed
from binder_core.plugin import (
    BackendUnavailable,
    BinderError,
    GitLsRemote,
    GitRefs,
    ProviderUnavailable,
    RefNotFound,
)

pytestmark = pytest.mark.anyio

ME = {
    **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, env=os.environ | ME, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet", "--initial-branch", "trunk")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "one")
    git(folder, "branch", "feature/x")
    git(folder, "update-server-info")
    return folder


def published(server: Server, repository: Path, path: str = "/repo") -> None:
    """Serve a repository as plain files, which git knows how to read."""
    store = repository / ".git"
    service = "?service=git-upload-pack"
    server.routes[f"{path}/info/refs{service}"] = answer(
        200, {}, (store / "info/refs").read_bytes()
    )
    server.routes[f"{path}/HEAD"] = answer(200, {}, (store / "HEAD").read_bytes())


async def test_refs_of_a_local_repository(repository: Path) -> None:
    head, tag = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "v1")
    async with make_asker(allow_file_urls=True) as asker:
        assert await asker.ask(GitLsRemote(repository.as_uri())) == GitRefs(
            {
                "HEAD": head,
                "refs/heads/feature/x": head,
                "refs/heads/trunk": head,
                "refs/tags/v1": tag,
                "refs/tags/v1^{}": head,
            }
        )
        assert await asker.ask(GitLsRemote(repository.as_uri(), ("v1", "v1^{}"))) == GitRefs(
            {"refs/tags/v1": tag, "refs/tags/v1^{}": head}
        )
        assert await asker.ask(GitLsRemote(repository.as_uri(), ("no",))) == GitRefs({})
        with pytest.raises(RefNotFound):
            await asker.ask(GitLsRemote((repository / "none").as_uri()))


async def test_files_are_not_looked_at_unless_allowed(repository: Path) -> None:
    async with make_asker() as asker:
        for url in (repository.as_uri(), str(repository), f"file://host.test{repository}"):
            with pytest.raises(NotAllowed):
                await asker.ask(GitLsRemote(url))


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "-x", "ftp://host.test/x", "http://", "http://[x/"]
)
async def test_what_is_not_asked(url: str) -> None:
    async with make_asker(allow_file_urls=True) as asker:
        with pytest.raises(NotAllowed):
            await asker.ask(GitLsRemote(url))


async def test_refs_by_http_come_from_the_address_that_was_checked(repository: Path) -> None:
    # Only our resolver knows this name: git cannot have looked it up.
    async with served() as server, make_asker() as asker:
        published(server, repository)
        refs = await asker.ask(GitLsRemote(server.url("/repo", "git.test"), ("trunk",)))
    assert refs == GitRefs({"refs/heads/trunk": git(repository, "rev-parse", "HEAD")})
    assert {request.headers["host"] for request in server.requests} == {f"git.test:{server.port}"}
    assert not any("authorization" in request.headers for request in server.requests)


async def test_a_name_that_changes_is_refused(repository: Path) -> None:
    answers = iter([[SERVER], [PRIVATE]])

    async def resolver(*_: object) -> list[str]:
        return next(answers)

    async with served() as server, served(PRIVATE, server.port) as secret:
        published(server, repository)
        async with make_asker(resolver=resolver) as asker:
            question = GitLsRemote(server.url("/repo"), ("trunk",))
            await asker.ask(question)
            with pytest.raises(NotAllowed, match="only public ones"):
                await asker.ask(question)
        assert secret.connections == 0


@pytest.mark.parametrize("scheme", ["http", "https", "git", "ssh"])
async def test_private_places_are_refused(scheme: str) -> None:
    async with served(PRIVATE) as secret, make_asker() as asker:
        for host in (PRIVATE, "[::1]", "[::ffff:127.0.0.1]"):
            with pytest.raises(NotAllowed, match="only public ones"):
                await asker.ask(GitLsRemote(f"{scheme}://{host}:{secret.port}/x"))
        assert secret.connections == 0


async def test_a_repository_that_moved_on_the_same_host(repository: Path) -> None:
    async with served() as server, make_asker() as asker:
        info = "/info/refs?service=git-upload-pack"
        published(server, repository, "/new")
        server.routes[f"/old{info}"] = answer(301, {"Location": f"/new{info}"})
        refs = await asker.ask(GitLsRemote(server.url("/old"), ("trunk",)))
    assert refs == GitRefs({"refs/heads/trunk": git(repository, "rev-parse", "HEAD")})


@pytest.mark.parametrize(
    "target", ["http://other.test:{port}/repo", f"http://{PRIVATE}:{{port}}/repo"]
)
async def test_a_repository_that_moved_elsewhere(repository: Path, target: str) -> None:
    async with served() as server, make_asker() as asker:
        info = "/info/refs?service=git-upload-pack"
        published(server, repository)
        moved = target.format(port=server.port)
        server.routes[f"/old{info}"] = answer(301, {"Location": moved + info})
        with pytest.raises(NotAllowed, match="where it may not lead"):
            await asker.ask(GitLsRemote(server.url("/old")))
        assert {request.headers["host"] for request in server.requests} == {
            f"host.test:{server.port}"
        }


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_no_such_repository(status: int) -> None:
    async with served() as server, make_asker() as asker:
        info = "/none/info/refs?service=git-upload-pack"
        server.routes[info] = answer(status, {"WWW-Authenticate": 'Basic realm="x"'})
        for _ in range(2):
            with pytest.raises(RefNotFound, match="There is no repository at"):
                await asker.ask(GitLsRemote(server.url("/none")))
        # The second time it is remembered.
        assert len(server.requests) == 1


async def test_a_server_that_is_down_is_asked_again() -> None:
    async with served() as server, make_asker() as asker:
        server.routes["/x/info/refs?service=git-upload-pack"] = answer(500)
        with pytest.raises(ProviderUnavailable, match=r"could not be asked: fatal:.*500"):
            await asker.ask(GitLsRemote(server.url("/x")))
        assert len(server.requests) == 3


def program(folder: Path, script: str) -> str:
    path = folder / "git"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_what_git_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    monkeypatch.setenv("GIT_ASKPASS", "/bin/echo")
    monkeypatch.setenv("https_proxy", "http://proxy.test")
    told = tmp_path / "told"
    fake = program(tmp_path, f'{{ printf "%s\\n" "$@"; env; pwd; ls -A; }} > {told}')
    async with make_asker(git=fake) as asker:
        await asker.ask(GitLsRemote("https://git.test/x", ("main", "HEAD")))
    lines = told.read_text().splitlines()
    ours = lines.index("--")
    assert lines[ours - 2 : ours + 4] == [
        *("ls-remote", "--quiet", "--", "https://git.test/x", "main", "HEAD"),
    ]
    assert f"http.curloptResolve=git.test:443:{SERVER}" in lines
    assert "http.followRedirects=false" in lines
    for setting in ("GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_ALLOW_PROTOCOL=https"):
        assert setting in lines
    names = {line.partition("=")[0] for line in lines[ours + 4 :] if "=" in line}
    assert not names & {"GITHUB_TOKEN", "GIT_ASKPASS", "https_proxy", "SSH_AUTH_SOCK", "USER"}
    home = next(line.removeprefix("HOME=") for line in lines if line.startswith("HOME="))
    # It is where git runs, empty, and gone by now.
    assert lines[-1] == home
    assert not await anyio.Path(home).exists()


async def test_ssh_goes_to_the_address_that_was_checked(tmp_path: Path) -> None:
    fake = program(tmp_path, f'printf "%s" "$GIT_SSH_COMMAND" > {tmp_path}/told')
    async with make_asker(git=fake, ssh_key="/keys/a b", ssh_known_hosts="/keys/known") as asker:
        await asker.ask(GitLsRemote("ssh://git@git.test/x"))
    told = (tmp_path / "told").read_text()
    assert told.startswith("ssh -F /dev/null -i '/keys/a b' ")
    for option in (
        f"HostName={SERVER}",
        "HostKeyAlias=git.test",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=/keys/known",
        "IdentityAgent=none",
    ):
        assert f"-o {option}" in told


async def test_git_urls_go_to_the_address_that_was_checked(tmp_path: Path) -> None:
    fake = program(tmp_path, f'echo "$4" "$GIT_OVERRIDE_VIRTUAL_HOST" > {tmp_path}/told')
    async with make_asker(git=fake) as asker:
        await asker.ask(GitLsRemote("git://git.test/x"))
    assert (tmp_path / "told").read_text() == f"git://{SERVER}:9418/x git.test\n"


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize(("script", "settings", "error"), [
    ("yes", {}, "more refs than are read"),
    ("yes >&2", {}, "more refs than are read"),
    ("sleep 1000 & sleep 1000", {"timeout": 0.3}, "No answer within 0.3 seconds"),
    ("trap '' TERM INT; while :; do sleep 1; done", {"timeout": 0.3}, "No answer within 0.3"),
    ("echo 'fatal: no\n' >&2; exit 128", {}, "could not be asked: fatal: no"),
    ("exit 1", {}, "git did not say why"),
])  # fmt: skip
async def test_a_git_that_misbehaves(
    tmp_path: Path, script: str, settings: dict[str, Any], error: str
) -> None:
    before = children()
    async with make_asker(git=program(tmp_path, script), **settings) as asker:
        with pytest.raises(ProviderUnavailable, match=error):
            await asker.ask(GitLsRemote("https://git.test/x"))
    assert children() <= before


async def test_a_cancelled_question_leaves_no_process(tmp_path: Path) -> None:
    # git's helper tells its number through a pipe, and is of the same session as git.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fake = program(tmp_path, f"sleep 1000 & echo $! > {pipe}; wait")
    before = children()
    async with make_asker(git=fake) as asker, anyio.create_task_group() as group:
        group.start_soon(asker.ask, GitLsRemote("https://git.test/x"))
        helper = psutil.Process(int(await anyio.Path(pipe).read_text()))
        group.cancel_scope.cancel()
    assert children() <= before
    with anyio.fail_after(5), suppress(psutil.NoSuchProcess):
        # Whoever adopted it may not have buried it yet.
        while helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE:
            await anyio.lowlevel.checkpoint()


async def test_only_a_few_run_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake = program(tmp_path, f"echo + >> {log}; sleep 0.05; echo - >> {log}")
    async with make_asker(git=fake, max_gits=2) as asker, anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(asker.ask, GitLsRemote(f"https://git.test/{number}"))
    running = most = 0
    for line in log.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2


async def test_no_git() -> None:
    async with make_asker(git="/no/such/git") as asker:
        with pytest.raises(BackendUnavailable, match="install it"):
            await asker.ask(GitLsRemote("https://git.test/x"))


async def test_what_git_says_is_printable(tmp_path: Path) -> None:
    fake = program(tmp_path, r"printf 'fatal: \033[31mred\007' >&2; exit 128")
    async with make_asker(git=fake, resolver=everywhere) as asker:
        with pytest.raises(BinderError) as caught:
            await asker.ask(GitLsRemote("https://git.test/x"))
    assert caught.value.message.isprintable()
