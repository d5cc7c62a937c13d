"""Services that host git repositories: GitHub, GitLab, Gitea, Bitbucket."""

from __future__ import annotations

from typing import ClassVar

import pytest
from recorded import step

from binder_core.plugin import (
    Answer,
    HttpGet,
    HttpReply,
    Pasted,
    Provider,
    ProviderUnavailable,
    Question,
    RefNotFound,
    Resolved,
)
from binder_core.providers.bitbucket import Bitbucket, BitbucketSettings
from binder_core.providers.gitea import Gitea, GiteaSettings
from binder_core.providers.github import ACCEPT, GitHub, GitHubSettings
from binder_core.providers.gitlab import GitLab, GitLabSettings
from binder_core.testing.providers import Dialogue, ProviderSuite

Z2JH = "jupyterhub/zero-to-jupyterhub-k8s"
RELEASE = "38e50c71130fcf56655685f0992f4f125bef3879"
NEWEST = "4931711ef6661f45f9fbba6780200d36d735dde8"


def github_step(ref: str) -> tuple[Question, Answer]:
    return step(f"https://api.github.com/repos/{Z2JH}/commits/{ref}", headers=ACCEPT)


def on_github(sha: str, notice: str = "") -> Resolved:
    return Resolved(
        provider="gh",
        spec=f"{Z2JH}/{sha}",
        repo_url=f"https://github.com/{Z2JH}",
        ref=sha,
        ref_url=f"https://github.com/{Z2JH}/tree/{sha}",
        slug="jupyterhub-zero-to-jupyterhub-k8s",
        notice=notice,
    )


def no_commit(url: str, status: int = 404) -> tuple[Question, Answer]:
    return HttpGet(url, tuple(ACCEPT.items())), HttpReply(status, url, {}, b'{"message": "no"}')


_GH = f"https://api.github.com/repos/{Z2JH}/commits"


class TestGitHub(ProviderSuite):
    specs = (
        "user/repo/HEAD",
        "binder-examples/requirements.git/main",
        "user/repo/feature/with/slash",
        "User.Name/Repo-Name/v1.0",
        "user/repo_name_/1479e02f4a5b6c7d8e9f0a1b2c3d4e5f60718293",
        "a/b/c%2Fd",
        "a/b/100%25",
        "Ünï/cödé/HEAD",
        "%C3%9Cn%C3%AF/c%C3%B6d%C3%A9/HEAD",
        "用户/仓库/主",
    )
    bad_specs = (
        "",
        "user",
        "user/repo",
        "user//HEAD",
        "/repo/HEAD",
        "user/repo/",
        "user/.git/HEAD",
        "user/../HEAD",
        "./repo/HEAD",
        "user/repo/a..b",
        "user/repo/a b",
        "user/repo/a%20b",
        "user/repo/v1~2",
        "user/repo/v1^{}",
        "user/repo/*",
        "user/repo/main.lock",
        "user/repo/.hidden",
        "user/repo/x//y",
        "user/repo/x/",
        "user/repo/-x",
        "user/repo/x/-y",
        "user/repo/%2Dx",
        "-user/repo/HEAD",
        "user/-repo/HEAD",
        "user/%2Drepo/HEAD",
        "us?er/repo/HEAD",
        "us%2Fer/repo/HEAD",
        "user/repo%23/HEAD",
        "user/repo/HEAD%0a",
        "user/repo/%",
        "user/repo/%4",
        "user/repo/%g1",
        "user/repo/%ff",
        "user/repo/" + "x" * 300,
        "user/repo/" + "x" * 10_000,
        "user/repo/a\u202eb",
    )
    dialogues = (
        Dialogue(f"{Z2JH}/0.9.1", [github_step("0.9.1")], on_github(RELEASE)),
        Dialogue(f"{Z2JH}/HEAD", [github_step("HEAD")], on_github(NEWEST)),
        Dialogue(f"{Z2JH}/nosuchref", [github_step("nosuchref")], RefNotFound),
        Dialogue(
            f"{Z2JH}/master",
            [no_commit(f"{_GH}/master"), github_step("HEAD")],
            on_github(
                NEWEST,
                f'{Z2JH} has no branch "master": its default branch (HEAD) was taken instead.',
            ),
        ),
        Dialogue(f"{Z2JH}/main", [no_commit(f"{_GH}/main"), no_commit(f"{_GH}/HEAD")], RefNotFound),
        # A branch of this name must not become the question for a commit's status.
        Dialogue(f"{Z2JH}/fix/status", [no_commit(f"{_GH}/fix%2Fstatus")], RefNotFound),
        Dialogue(f"{Z2JH}/fix%2Fstatus", [no_commit(f"{_GH}/fix%2Fstatus")], RefNotFound),
        Dialogue(f"{Z2JH}/v1", [no_commit(f"{_GH}/v1", 500)], ProviderUnavailable),
        Dialogue(f"{Z2JH}/v1", [no_commit(f"{_GH}/v1", 200)], ProviderUnavailable),
    )
    pasted: ClassVar = {
        "https://github.com/user/repo": Pasted("user/repo/HEAD"),
        "http://www.github.com/user/repo/": Pasted("user/repo/HEAD"),
        "github.com/user/repo": Pasted("user/repo/HEAD"),
        "https://github.com/user/repo.git": Pasted("user/repo/HEAD"),
        "git@github.com:user/repo.git": Pasted("user/repo/HEAD"),
        "ssh://git@github.com/user/repo.git": Pasted("user/repo/HEAD"),
        "  https://github.com/user/repo#readme ": Pasted("user/repo/HEAD"),
        "https://github.com/user/repo/tree/branch/path": Pasted("user/repo/branch", "path"),
        "https://github.com/user/repo/blob/v1.0/a%20b/c.ipynb?plain=1#L3": Pasted(
            "user/repo/v1.0", "a b/c.ipynb"
        ),
        f"https://github.com/user/repo/commit/{RELEASE}": Pasted(f"user/repo/{RELEASE}"),
        "https://github.com/user/repo/releases/tag/v2": Pasted("user/repo/v2"),
        "https://github.com/user/repo/issues/3": Pasted("user/repo/HEAD"),
        "https://raw.githubusercontent.com/user/repo/main/x/y.py": Pasted(
            "user/repo/main", "x/y.py"
        ),
        "https://raw.githubusercontent.com/user/repo/refs/heads/main/y.py": Pasted(
            "user/repo/main", "y.py"
        ),
        "https://raw.githubusercontent.com/user": None,
        "https://github.com/user": None,
        "https://github.com/": None,
        "https://github.com.evil.example/user/repo": None,
        "https://github.com@evil.example/user/repo": None,
        "https://evil.example/github.com/user/repo": None,
        "https://gitlab.com/user/repo": None,
        "https://github.com:99999/user/repo": None,
        "javascript:alert(1)": None,
        "https://github.com/user/-repo": None,
        "not a url": None,
    }

    def make_provider(self) -> Provider:
        return GitHub("gh", GitHubSettings())


class TestGitHubEnterprise(ProviderSuite):
    specs = ("user/repo/HEAD",)
    pasted: ClassVar = {
        "https://git.corp.example/user/repo/tree/x": Pasted("user/repo/x"),
        "https://github.com/user/repo": None,
        "https://raw.githubusercontent.com/user/repo/main/x": None,
    }
    dialogues = (
        Dialogue(
            "u/r/v1",
            [
                (
                    HttpGet(
                        "https://git.corp.example/api/v3/repos/u/r/commits/v1",
                        tuple(ACCEPT.items()),
                    ),
                    HttpReply(200, "", {}, b'{"sha": "%s"}' % RELEASE.encode()),
                )
            ],
            Resolved(
                provider="ghe",
                spec=f"u/r/{RELEASE}",
                repo_url="https://git.corp.example/u/r",
                ref=RELEASE,
                ref_url=f"https://git.corp.example/u/r/tree/{RELEASE}",
                slug="u-r",
            ),
        ),
    )

    def make_provider(self) -> Provider:
        return GitHub("ghe", GitHubSettings(host="Git.Corp.Example", name="Corp"))


FOSS = "gitlab-org%2Fgitlab-foss"
_GL = f"https://gitlab.com/api/v4/projects/{FOSS}/repository/commits"


class TestGitLab(ProviderSuite):
    specs = (
        "group%2Fproject%2Frepo/main",
        "group%2Frepo/feature/x",
        "group%2Frepo/feature%2Fx",
        "group%2Fr%C3%A9po/HEAD",
        "group%2frepo.git/HEAD",
    )
    bad_specs = (
        "",
        "group",
        "group/project/main",
        "group%2Fproject",
        "group%2Fproject/",
        "group%2F/HEAD",
        "%2Fproject/HEAD",
        "group%2F%2Fproject/HEAD",
        "group%2F..%2Fproject/HEAD",
        "group%2F-%2Fproject/HEAD",
        "%2Dgroup%2Fproject/HEAD",
        "group%2Fproject/a..b",
        "group%252Fproject/HEAD",
        "group%2Fpro%ject/HEAD",
    )
    dialogues = (
        Dialogue(
            f"{FOSS}/v10.0.6",
            [step(f"{_GL}/v10.0.6")],
            Resolved(
                provider="gl",
                spec=f"{FOSS}/b3344b7f17c335a817c5d7608c5e47fd7cabc023",
                repo_url="https://gitlab.com/gitlab-org/gitlab-foss.git",
                ref="b3344b7f17c335a817c5d7608c5e47fd7cabc023",
                ref_url="https://gitlab.com/gitlab-org/gitlab-foss/-/tree/"
                "b3344b7f17c335a817c5d7608c5e47fd7cabc023",
                slug="gitlab_-org-gitlab_-foss",
            ),
        ),
        Dialogue(f"{FOSS}/nosuchref", [step(f"{_GL}/nosuchref")], RefNotFound),
        Dialogue(
            f"{FOSS}/main",
            [
                (HttpGet(f"{_GL}/main"), HttpReply(404, f"{_GL}/main")),
                step(f"{_GL}/HEAD"),
            ],
            Resolved(
                provider="gl",
                spec=f"{FOSS}/2a9d2b119a87b8411993096a22d41a3eb857e8c1",
                repo_url="https://gitlab.com/gitlab-org/gitlab-foss.git",
                ref="2a9d2b119a87b8411993096a22d41a3eb857e8c1",
                ref_url="https://gitlab.com/gitlab-org/gitlab-foss/-/tree/"
                "2a9d2b119a87b8411993096a22d41a3eb857e8c1",
                slug="gitlab_-org-gitlab_-foss",
                notice='gitlab-org/gitlab-foss has no branch "main": its default branch (HEAD) was '
                "taken instead.",
            ),
        ),
    )
    pasted: ClassVar = {
        "https://gitlab.com/g/p": Pasted("g%2Fp/HEAD"),
        "https://gitlab.com/g/s/t/p.git": Pasted("g%2Fs%2Ft%2Fp/HEAD"),
        "git@gitlab.com:g/p.git": Pasted("g%2Fp/HEAD"),
        "https://gitlab.com/g/s/p/-/tree/main/a/b?ref_type=heads": Pasted("g%2Fs%2Fp/main", "a/b"),
        "https://gitlab.com/g/p/-/blob/main/x.ipynb": Pasted("g%2Fp/main", "x.ipynb"),
        f"https://gitlab.com/g/p/-/commit/{RELEASE}": Pasted(f"g%2Fp/{RELEASE}"),
        "https://gitlab.com/g/p/-/tags/v1": Pasted("g%2Fp/v1"),
        "https://gitlab.com/g/p/-/merge_requests/1": Pasted("g%2Fp/HEAD"),
        "https://gitlab.com/g": None,
        "https://gitlab.com/-/profile": None,
        "https://github.com/g/p": None,
    }

    def make_provider(self) -> Provider:
        return GitLab("gl", GitLabSettings())


DOCS = "https://codeberg.org/api/v1/repos/forgejo/docs/commits"
_REST = "limit=1&stat=false&verification=false&files=false"


def on_codeberg(sha: str, notice: str = "") -> Resolved:
    return Resolved(
        provider="gitea",
        spec=f"forgejo/docs/{sha}",
        repo_url="https://codeberg.org/forgejo/docs",
        ref=sha,
        ref_url=f"https://codeberg.org/forgejo/docs/src/commit/{sha}",
        slug="codeberg.org-forgejo-docs",
        notice=notice,
    )


class TestGitea(ProviderSuite):
    specs = ("forgejo/docs/HEAD", "forgejo/docs/v9.0/fix")
    bad_specs = ("", "forgejo/docs", "forgejo/docs/", "-/docs/HEAD")
    dialogues = (
        Dialogue(
            "forgejo/docs/v9.0/fix",
            [step(f"{DOCS}?sha=v9.0%2Ffix&{_REST}")],
            on_codeberg("5c8a4f7d1e2b3c4d5e6f708192a3b4c5d6e7f809"),
        ),
        Dialogue(
            "forgejo/docs/master",
            [step(f"{DOCS}?sha=master&{_REST}"), step(f"{DOCS}?{_REST}")],
            on_codeberg(
                "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
                'forgejo/docs has no branch "master": its default branch (HEAD) was taken instead.',
            ),
        ),
        Dialogue("forgejo/docs/nosuchref", [step(f"{DOCS}?sha=nosuchref&{_REST}")], RefNotFound),
    )
    pasted: ClassVar = {
        "https://codeberg.org/u/r": Pasted("u/r/HEAD"),
        "https://codeberg.org/u/r/src/branch/main/a/b.md": Pasted("u/r/main", "a/b.md"),
        "https://codeberg.org/u/r/src/tag/v1": Pasted("u/r/v1"),
        f"https://codeberg.org/u/r/src/commit/{RELEASE}/x": Pasted(f"u/r/{RELEASE}", "x"),
        f"https://codeberg.org/u/r/commit/{RELEASE}": Pasted(f"u/r/{RELEASE}"),
        "https://codeberg.org/u/r/releases/tag/v1": Pasted("u/r/v1"),
        "https://gitea.com/u/r": None,
    }

    def make_provider(self) -> Provider:
        return Gitea("gitea", GiteaSettings())


AUI = "https://api.bitbucket.org/2.0/repositories/atlassian/aui"
_HASH = "94f54d9b83d34156dd1849e0a75fb0bc8b171218"


class TestBitbucket(ProviderSuite):
    specs = ("atlassian/aui/HEAD", "atlassian/aui/release/9")
    bad_specs = ("", "atlassian/aui", "atlassian//HEAD", "atlassian/aui/-9")
    dialogues = (
        Dialogue(
            "atlassian/aui/HEAD",
            [
                step(f"{AUI}?fields=mainbranch.name"),
                step(f"{AUI}/commits?include=release%2F9&pagelen=1&fields=values.hash"),
            ],
            Resolved(
                provider="bitbucket",
                spec=f"atlassian/aui/{_HASH}",
                repo_url="https://bitbucket.org/atlassian/aui",
                ref=_HASH,
                ref_url=f"https://bitbucket.org/atlassian/aui/src/{_HASH}",
                slug="bitbucket.org-atlassian-aui",
            ),
        ),
        Dialogue(
            "atlassian/aui/nosuchref",
            [step(f"{AUI}/commits?include=nosuchref&pagelen=1&fields=values.hash")],
            RefNotFound,
        ),
        Dialogue(
            "atlassian/nosuchrepo/HEAD",
            [step(f"{AUI.removesuffix('aui')}nosuchrepo?fields=mainbranch.name")],
            RefNotFound,
        ),
    )
    pasted: ClassVar = {
        "https://bitbucket.org/atlassian/aui": Pasted("atlassian/aui/HEAD"),
        "https://bitbucket.org/atlassian/aui/src/master/docs/x.md": Pasted(
            "atlassian/aui/master", "docs/x.md"
        ),
        "https://bitbucket.org/atlassian/aui/branch/dev": Pasted("atlassian/aui/dev"),
        f"https://bitbucket.org/atlassian/aui/commits/{_HASH}": Pasted(f"atlassian/aui/{_HASH}"),
        "https://bitbucket.org/atlassian/aui/commits/tag/9.1": Pasted("atlassian/aui/9.1"),
        "git@bitbucket.org:atlassian/aui.git": Pasted("atlassian/aui/HEAD"),
        "https://github.com/atlassian/aui": None,
    }

    def make_provider(self) -> Provider:
        return Bitbucket("bitbucket", BitbucketSettings())


def test_an_error_names_the_service_and_what_it_answered() -> None:
    flow = GitHub("gh", GitHubSettings()).resolve(
        GitHub("gh", GitHubSettings()).parse("user/repo/v1")
    )
    next(flow)
    url = "https://api.github.com/repos/user/repo/commits/v1"
    with pytest.raises(ProviderUnavailable) as caught:
        flow.send(HttpReply(502, url, {"retry-after": "7"}, b'{"message": "Server\\u0007 Error"}'))
    assert caught.value.message.startswith("GitHub (api.github.com) answered 502: Server  Error.")
    assert caught.value.retry_after == 7


def test_what_is_no_commit_is_not_believed() -> None:
    provider = GitHub("gh", GitHubSettings())
    flow = provider.resolve(provider.parse("user/repo/v1"))
    next(flow)
    with pytest.raises(ProviderUnavailable, match="no commit"):
        flow.send(HttpReply(200, "", {}, b'{"sha": "--upload-pack=x"}'))


def test_several_of_one_kind_stand_side_by_side() -> None:
    work = GitLab("work", GitLabSettings(host="gitlab.corp.example"))
    play = GitLab("gl", GitLabSettings())
    assert work.pinned(work.parse("a%2Fb/x"), "1").repo_url == "https://gitlab.corp.example/a/b.git"
    assert work.recognise("https://gitlab.corp.example/a/b") == Pasted("a%2Fb/HEAD")
    assert play.recognise("https://gitlab.corp.example/a/b") is None
    assert work.display.name == "gitlab.corp.example"
