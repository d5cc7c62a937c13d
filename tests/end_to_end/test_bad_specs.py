"""What cannot be asked for, through HTTP: one ``failed`` event, soon, and nothing is left of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import anyio
import pytest
from real_server import Heard, RealServer, ask_again, hear, until
from repositories import GitDaemon, Repositories, file_spec

pytestmark = [pytest.mark.anyio, pytest.mark.real]

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
LONG: Final = "x" * 10_000
AT_ONCE: Final = 5.0
ASKED: Final = 15.0
"""Seconds in which a question to a service comes to an end: `asker.timeout`, and some."""

FORMS: Final = {
    "gh": "user/repo/HEAD",
    "gist": "user/0123456789abcdef0123/HEAD",
    "git": "https%3A%2F%2Fexample.org%2Frepo/HEAD",
    "gl": "group%2Frepo/HEAD",
    "zenodo": "10.5281/zenodo.3242074",
    "figshare": "10.6084/m9.figshare.9782777.v1",
    "hydroshare": "b8f6eae9d89241cf8b5904033460af61",
    "dataverse": "10.7910/DVN/TJCLKP",
    "ckan": "https%3A%2F%2Fexample.org%2Fdataset%2Fname",
    "swh": f"swh:1:rev:{COMMIT}",
    "gitea": "user/repo/HEAD",
    "bitbucket": "user/repo/HEAD",
}
"""A spec of each provider that is well-formed."""

ESCAPED: Final = {
    "nothing": "",
    "only slashes": "//",
    "an escape that is none": "{0}%zz",
    "half an escape": "{0}%2",
    "escapes that are no UTF-8": "%ff%fe{0}",
    "a null": "{0}%00",
    "a line break": "{0}%0A",
    "an escape of a terminal": "%1B%5B31m{0}",
    "a dash in front": "-{0}",
    "an option of git": "--upload-pack=touch%20pwned/{0}",
    "another alphabet, where none is allowed": "%20{0}%E2%80%AE",
    "ten kilobytes": "{0}" + LONG,
}
"""What is wrong with them, and how it looks in the URL."""

SAID: Final = {
    # Unknown providers.
    "nosuch/user/repo/HEAD": "There is no provider 'nosuch' here; try ",
    "ghh/user/repo/HEAD": "did you mean 'gh'?",
    "": "There is no provider '' here",
    f"{'y' * 3000}/a/b": "There is no provider 'yyy",
    # Parts that are missing.
    "gh": "The spec is empty",
    "gh/user": 'Spec is not of the form "user/repo/ref"',
    "gh/user/repo": 'Did you mean "user/repo/HEAD"?',
    "gh//repo/HEAD": "The user is empty",
    "gh/user//HEAD": "The repository is empty",
    "gh/user/repo//": "The ref is empty",
    "gist/user": "user",
    "gl/group%2Frepo": "ref",
    "git/https%3A%2F%2Fexample.org%2Frepo": "A ref is missing",
    "git/https%3A%2F%2Fexample.org/HEAD": "names a host but no repository",
    "git/https%3A%2F%2F%2Frepo/HEAD": "no host",
    # Parts that are dangerous.
    "gh/-user/repo/HEAD": "dash",
    "gh/user/-repo/HEAD": "dash",
    "gh/user/repo/-b": "dash",
    "gh/user/repo/--upload-pack=x": "dash",
    "gh/user/repo/a%00b": "U+0000",
    "gh/user/repo/a%0Ab": "U+000A",
    "gh/../repo/HEAD": "The user is made of letters",
    "gh/user/repo/a..b": "'..'",
    "git/-oProxyCommand=x/HEAD": "dash",
    "git/https%3A%2F%2Fexample.org%2Frepo/--exec=x": "dash",
    "git/ssh%3A%2F%2F-oProxyCommand%3Dx%2Frepo/HEAD": "starts with",
    "git/https%3A%2F%2Fme%3Asecret%40example.org%2Frepo/HEAD": "No user name, password",
    # Schemes.
    "git/ext%3A%3Ash%20-c%20id/HEAD": "starts with https, git, file",
    "git/http%3A%2F%2Fexample.org%2Frepo/HEAD": "http is none of them",
    "git/ssh%3A%2F%2Fgit%40example.org%2Frepo/HEAD": "ssh is none of them",
    "git/git%40example.org%3Arepo/HEAD": "ssh is none of them",
    "git/javascript%3Aalert(1)/HEAD": "javascript is none of them",
    "git/https://example.org/repo/HEAD": "have to be escaped",
    # Networks that are not public.
    "git/https%3A%2F%2F10.0.0.1%2Frepo/HEAD": "10.0.0.1",
    "git/https%3A%2F%2F169.254.169.254%2Frepo/HEAD": "169.254.169.254",
    "ckan/https%3A%2F%2F192.168.0.1%2Fdataset%2Fx": "192.168.0.1",
}  # fmt: skip
"""What is answered to what is wrong in a way of its own."""


@pytest.fixture(scope="module")
def server(package_index: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    made = RealServer(
        tmp_path_factory.mktemp("specs") / "server",
        {
            "asker.timeout": 6.0,
            "asker.step_timeout": 2.0,
            # Nobody outside is asked here, and who is asked is never there.
            "providers.gl.host": "gitlab.invalid",
            "providers.gitea.host": "gitea.invalid",
        },
    )
    made.start()
    yield made
    made.stop()
    assert made.left_behind() == []
    # Not one of them came as far as a build.
    assert made.runs() == []


async def refused(server: RealServer, spec: str, *, within: float) -> Heard:
    """Return the one event that is told of a spec that cannot be."""
    began = time.monotonic()
    async with server.client() as client:
        heard = await hear(client, spec, within=within)
    assert time.monotonic() - began < within
    (failed,) = heard
    assert failed.phase == "failed"
    assert 400 <= failed.data["status_code"] <= 504
    assert len(failed.message) < 1000
    assert "Internal error" not in failed.message
    assert "Traceback" not in failed.message
    assert all(line.isprintable() for line in failed.message.splitlines())
    return failed


@pytest.mark.parametrize("provider", FORMS)
async def test_malformed_specs(server: RealServer, provider: str) -> None:
    for wrong, form in ESCAPED.items():
        spec = f"{provider}/{form.format(FORMS[provider])}"
        failed = await refused(server, spec, within=AT_ONCE)
        assert failed.data["status_code"] in {400, 404, 414}, (wrong, failed)
    async with server.client() as client:
        assert await ask_again(client, f"{provider}/-", failed.id) == 204


@pytest.mark.parametrize("spec", SAID)
async def test_it_says_what_is_wrong(server: RealServer, spec: str) -> None:
    failed = await refused(server, spec, within=ASKED)
    assert SAID[spec] in failed.message


@pytest.mark.parametrize(
    "spec",
    [
        "gl/дядя%2Fжжж/main",
        "gl/%E7%94%A8%E6%88%B7%2F%E4%BB%93%E5%BA%93/%E4%B8%BB",
        "gitea/%D9%85%D8%B3%D8%AA%D8%AE%D8%AF%D9%85/repo/HEAD",
        "git/https%3A%2F%2Fb%C3%BCcher.invalid%2Fdep%C3%B4t/HEAD",
    ],
)
async def test_other_alphabets_are_names_like_others(server: RealServer, spec: str) -> None:
    failed = await refused(server, quote(spec, safe="/%"), within=ASKED)
    # They are asked for, at hosts that do not exist.
    assert failed.data["status_code"] == 503
    assert ".invalid" in failed.message


async def test_no_such_repository_and_no_such_ref(
    server: RealServer, git_daemon: GitDaemon, repositories: Repositories
) -> None:
    repositories.make("there", {"a": ""})
    nowhere = repositories.folder / "nowhere"
    for spec, words in {
        git_daemon.spec("nowhere", "HEAD"): "nowhere",
        git_daemon.spec("there", "nosuch"): 'no branch or tag "nosuch"',
        file_spec(nowhere, "HEAD"): "nowhere",
        file_spec(repositories.folder / "there", "nosuch"): 'no branch or tag "nosuch"',
        file_spec(repositories.folder / "there", COMMIT[:12]): "whole name of 40 digits",
    }.items():
        failed = await refused(server, spec, within=ASKED)
        assert failed.data["status_code"] == 404, failed.message
        assert words in failed.message


async def test_hosts_that_cannot_be_reached(server: RealServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        async def ask(scheme: str, host: str) -> None:
            url = quote(f"{scheme}://{host}/repo", safe="")
            failed = await refused(server, f"git/{url}/HEAD", within=ASKED)
            assert failed.data["status_code"] == 503, failed.message
            assert host.partition(":")[0] in failed.message

        async with anyio.create_task_group() as tasks:
            for host in (
                f"127.0.0.1:{silent.getsockname()[1]}",
                f"127.0.0.1:{closed.getsockname()[1]}",
                "nosuch.invalid",
            ):
                for scheme in ("git", "https"):
                    tasks.start_soon(ask, scheme, host)


async def test_the_server_is_as_it_was(server: RealServer) -> None:
    """Run last, after all of this."""
    # hypercorn keeps a connection that idles for 5 s, also one that its client has closed.
    await until(lambda: server.connections() == 0, within=10)
    assert server.left_behind() == []
    async with server.client() as client:
        assert (await client.get("health")).json()["ok"]
        page = (await client.get("metrics")).text
    assert "binderhub_inprogress_builds 0.0" in page
    assert "binderhub_inprogress_launches 0.0" in page
    assert server.peak_bytes() < 200 * 2**20
