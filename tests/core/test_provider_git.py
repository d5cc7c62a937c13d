"""Any git repository, and gists."""

from __future__ import annotations

from typing import ClassVar

import pytest
from recorded import step

from binder_core.plugin import (
    GitLsRemote,
    GitRefs,
    Pasted,
    Provider,
    ProviderUnavailable,
    RefNotFound,
    Resolved,
    SpecError,
)
from binder_core.providers.gist import Gist, GistSettings
from binder_core.providers.git import Git, GitSettings
from binder_core.providers.github import ACCEPT
from binder_core.testing.providers import Dialogue, ProviderSuite

ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40
CONDA = "https%3A%2F%2Fgithub.com%2Fbinder-examples%2Fconda"
URL = "https://github.com/binder-examples/conda"


def resolved(sha: str, notice: str = "") -> Resolved:
    return Resolved(
        provider="git",
        spec=f"{CONDA}/{sha}",
        repo_url=URL,
        ref=sha,
        ref_url=URL,
        slug=URL,
        notice=notice,
    )


def refs(*patterns: str, **found: str) -> list[tuple[GitLsRemote, GitRefs]]:
    return [(GitLsRemote(URL, patterns), GitRefs(found))]


class TestGit(ProviderSuite):
    specs = (
        f"{CONDA}/main",
        f"{CONDA}/feature%2Fx",
        f"{CONDA}/feature/x",
        f"{CONDA}/{ONE}",
        f"{CONDA}/{'aB' * 32}",
        "git%40github.com%3Abinder-examples%2Fconda/HEAD",
        "ssh%3A%2F%2Fgit%40host.example%3A2222%2Frepo/HEAD",
        "git%3A%2F%2Fhost.example%2Frepo.git/HEAD",
        "http%3A%2F%2F%5B2001%3Adb8%3A%3A1%5D%3A8080%2Frepo/HEAD",
        "https%3A%2F%2Fhost.example%2F~user%2Frepo%3Fx%3Dy/HEAD",
    )
    bad_specs = (
        "",
        CONDA,
        f"{CONDA}/",
        "https://github.com/binder-examples/conda/main",
        "github.com%2Fbinder-examples%2Fconda/main",
        "file%3A%2F%2F%2Fetc/HEAD",
        "ext%3A%3Ash%20-c%20id/HEAD",
        "ftp%3A%2F%2Fhost.example%2Frepo/HEAD",
        "-oProxyCommand%3Did/HEAD",
        "ssh%3A%2F%2F-oProxyCommand%3Did%2Frepo/HEAD",
        "ssh%3A%2F%2F-u%40host.example%2Frepo/HEAD",
        "ssh%3A%2F%2Fgit%3Apw%40host.example%2Frepo/HEAD",
        "https%3A%2F%2Fuser%3Atoken%40host.example%2Frepo/HEAD",
        "https%3A%2F%2Ftoken%40host.example%2Frepo/HEAD",
        "https%3A%2F%2F%2Frepo/HEAD",
        "https%3A%2F%2Fhost.example/HEAD",
        "https%3A%2F%2Fhost.example%2F/HEAD",
        "https%3A%2F%2Fhost.example%3A99999%2Fx/HEAD",
        "https%3A%2F%2Fhost.example%3Ax%2Fx/HEAD",
        "https%3A%2F%2Fho%20st%2Fx/HEAD",
        "https%3A%2F%2Fhost%5Cx%2Fx/HEAD",
        "https%3A%2F%2Fhost%2Fx%23y/HEAD",
        "https%3A%2F%2F%5B%3A%3A1%2Fx/HEAD",
        "https%3A%2F%2Fhost%2Fx%0A/HEAD",
        "git%40-host%3Ax/HEAD",
        f"{CONDA}/--upload-pack%3Did",
        f"{CONDA}/ma*",
        f"{CONDA}/a%3Ab",
    )
    dialogues = (
        Dialogue(f"{CONDA}/{'AB' * 20}", [], resolved("ab" * 20)),
        Dialogue(
            f"{CONDA}/v1",
            refs("v1", "v1^{}", **{"refs/tags/v1": ONE, "refs/tags/v1^{}": TWO}),
            resolved(TWO),
        ),
        Dialogue(
            f"{CONDA}/v1",
            refs("v1", "v1^{}", **{"refs/heads/v1": THREE, "refs/tags/v1": ONE}),
            resolved(THREE),
        ),
        Dialogue(
            f"{CONDA}/refs%2Fpull%2F1%2Fhead",
            refs("refs/pull/1/head", "refs/pull/1/head^{}", **{"refs/pull/1/head": ONE}),
            resolved(ONE),
        ),
        Dialogue(f"{CONDA}/HEAD", refs("HEAD", "HEAD^{}", HEAD=ONE), resolved(ONE)),
        # The end of a longer name is another ref.
        Dialogue(f"{CONDA}/x", refs("x", "x^{}", **{"refs/heads/feature/x": ONE}), RefNotFound),
        Dialogue(
            f"{CONDA}/main",
            refs("main", "main^{}", "HEAD", HEAD=TWO),
            resolved(
                TWO, f'{URL} has no branch "main": its default branch (HEAD) was taken instead.'
            ),
        ),
        Dialogue(
            f"{CONDA}/main",
            refs("main", "main^{}", "HEAD", **{"HEAD": TWO, "refs/heads/main": ONE}),
            resolved(ONE),
        ),
        Dialogue(f"{CONDA}/master", refs("master", "master^{}", "HEAD"), RefNotFound),
        Dialogue(f"{CONDA}/x", refs("x", "x^{}", **{"refs/heads/x": "-x"}), ProviderUnavailable),
    )
    pasted: ClassVar = {
        "https://host.example/a/b.git": Pasted("https%3A%2F%2Fhost.example%2Fa%2Fb.git/HEAD"),
        "git@host.example:a/b": Pasted("git%40host.example%3Aa%2Fb/HEAD"),
        "git://host.example/a": Pasted("git%3A%2F%2Fhost.example%2Fa/HEAD"),
        "ssh://git@host.example/a": Pasted("ssh%3A%2F%2Fgit%40host.example%2Fa/HEAD"),
        "https://host.example/a/b": None,
        "https://u:p@host.example/a.git": None,
        "file:///a.git": None,
        "a.git": None,
    }

    def make_provider(self) -> Provider:
        return Git("git", GitSettings())


def test_a_missing_escape_is_what_is_told() -> None:
    with pytest.raises(SpecError, match=r'"https%3A%2F%2Fhost%2Frepo/HEAD"'):
        Git("git", GitSettings()).parse("https://github.com/binder-examples/conda/main")


def test_a_missing_ref_is_what_is_told() -> None:
    with pytest.raises(SpecError, match=f'Did you mean "{CONDA}/HEAD"'):
        Git("git", GitSettings()).parse(CONDA)


def test_an_operator_says_which_hosts_and_schemes() -> None:
    provider = Git("git", GitSettings(hosts=("Git.Example",), schemes=("https", "file")))
    assert provider.parse("https%3A%2F%2Fgit.example%2Fx/HEAD").repo == "https://git.example/x"
    assert provider.parse("file%3A%2F%2F%2Fsrv%2Fx/HEAD").repo == "file:///srv/x"
    for text in ("https%3A%2F%2Fother.example%2Fx/HEAD", "file%3A%2F%2Fhost%2Fx/HEAD"):
        with pytest.raises(SpecError):
            provider.parse(text)


GIST = "mathematicalmichael/8a658f7f63b13768d1e75fa2464f5092"
NEW = "7dae1f4a2c2ef8d1a7e0e4e9c8d9b1c5a3f2e1d0"
OLD = "3edad1c5f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5"


def gist(sha: str) -> Resolved:
    return Resolved(
        provider="gist",
        spec=f"{GIST}/{sha}",
        repo_url=f"https://gist.github.com/{GIST}.git",
        ref=sha,
        ref_url=f"https://gist.github.com/{GIST}/{sha}",
        slug="8a658f7f63b13768d1e75fa2464f5092",
    )


_ASKED = [step("https://api.github.com/gists/8a658f7f63b13768d1e75fa2464f5092", headers=ACCEPT)]


class TestGist(ProviderSuite):
    specs = (GIST, f"{GIST}/HEAD", f"{GIST}/master", f"{GIST}/{OLD}")
    bad_specs = ("", "user", "user/", "/id", "user/id/v1.0", "user/id/", "-u/id", "user/i*d")
    dialogues = (
        *(Dialogue(f"{GIST}{ref}", _ASKED, gist(NEW)) for ref in ("", "/HEAD", "/main", "/master")),
        Dialogue(f"{GIST}/{OLD.upper()}", _ASKED, gist(OLD)),
        Dialogue(f"{GIST}/{ONE}", _ASKED, RefNotFound),
        Dialogue(
            "user/0000000000",
            [step("https://api.github.com/gists/0000000000", headers=ACCEPT)],
            RefNotFound,
        ),
        Dialogue(
            "user/5ec7e7",
            [step("https://api.github.com/gists/5ec7e7", headers=ACCEPT)],
            RefNotFound,
        ),
    )
    pasted: ClassVar = {
        f"https://gist.github.com/{GIST}": Pasted(GIST),
        f"https://gist.github.com/{GIST}.git": Pasted(GIST),
        f"https://gist.github.com/{GIST}/{OLD}": Pasted(f"{GIST}/{OLD}"),
        f"https://gist.github.com/{GIST}/forks": None,
        "https://gist.github.com/user": None,
        "https://github.com/user/repo": None,
    }

    def make_provider(self) -> Provider:
        return Gist("gist", GistSettings())


def test_secret_gists_are_the_operators_choice() -> None:
    question, answer = step("https://api.github.com/gists/5ec7e7", headers=ACCEPT)
    strict, open_ = Gist("gist", GistSettings()), Gist("gist", GistSettings(allow_secret=True))
    flow = strict.resolve(strict.parse("user/5ec7e7"))
    assert next(flow) == question
    with pytest.raises(RefNotFound, match="secret") as caught:
        flow.send(answer)
    assert caught.value.status == 403
    flow = open_.resolve(open_.parse("user/5ec7e7"))
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(answer)
    assert stop.value.value.ref == NEW
