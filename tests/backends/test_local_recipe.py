"""What the local recipe reads of a repository, and what it hands on: no process is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from binder_backends.local.environment import build_environment, secret_names, server_environment
from binder_backends.runner.declared import Declared, read_declared
from binder_backends.runner.fetching import directory_of, fetch, git_environment, url_secrets
from binder_backends.runner.installing import activated, script
from binder_backends.runner.local import remove_tree
from binder_backends.runner.options import LocalRecipe
from binder_backends.runner.recipes import RecipeFailed, Say, Step, StepResult
from binder_core.plugin import Phase

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def made(folder: Path, *names: str, **texts: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_repository_that_declares_nothing(tmp_path: Path) -> None:
    assert read_declared(tmp_path) == Declared(".")


@pytest.mark.parametrize("folder", [".", "binder", ".binder"])
def test_the_configuration_folder(folder: str, tmp_path: Path) -> None:
    at = "" if folder == "." else f"{folder}/"
    made(tmp_path, f"{at}requirements.txt", f"{at}postBuild", f"{at}start", "setup.py")
    assert read_declared(tmp_path) == Declared(
        folder,
        requirements=f"{at}requirements.txt",
        project="." if folder == "." else "",
        post_build=f"{at}postBuild",
        start=f"{at}start",
    )


def test_two_configuration_folders_are_one_too_many(tmp_path: Path) -> None:
    made(tmp_path, "binder/x", ".binder/x")
    with pytest.raises(RecipeFailed, match=r"both a binder/ and a \.binder/"):
        read_declared(tmp_path)


def test_a_binder_folder_hides_what_is_outside(tmp_path: Path) -> None:
    made(tmp_path, "binder/requirements.txt", "Dockerfile", "environment.yml", "apt.txt")
    assert read_declared(tmp_path).requirements == "binder/requirements.txt"


def test_environment_yml_wins(tmp_path: Path) -> None:
    made(tmp_path, "environment.yml", "requirements.txt", "setup.py", "postBuild")
    declared = read_declared(tmp_path)
    assert declared == Declared(".", environment="environment.yml", post_build="postBuild")


def test_another_name_of_environment_yml_is_noticed(tmp_path: Path) -> None:
    (notice,) = read_declared(made(tmp_path, "environment.yaml")).notices
    assert "environment.yml" in notice


@pytest.mark.parametrize(
    "name",
    ["apt.txt", "Dockerfile", "install.R", "Project.toml", "default.nix", "REQUIRE", "Pipfile"],
)
@pytest.mark.parametrize("folder", ["", "binder/"])
def test_what_only_another_backend_can_build(folder: str, name: str, tmp_path: Path) -> None:
    made(tmp_path, folder + name, "requirements.txt")
    with pytest.raises(RecipeFailed) as failure:
        read_declared(tmp_path)
    assert f"{folder}{name} " in str(failure.value)
    assert 'docker backend (builder = "docker")' in str(failure.value)


@pytest.mark.parametrize(
    ("text", "python"),
    [("python-3.11", "3.11"), ("python-3.12.1\n", "3.12.1"), ("python-3", ""), ("", None)],
)
def test_runtime_txt(text: str, python: str | None, tmp_path: Path) -> None:
    made(tmp_path, runtime_txt=text)
    if python is None:
        with pytest.raises(RecipeFailed, match=r"expected a version such as python-3\.12"):
            read_declared(tmp_path)
    else:
        assert read_declared(tmp_path).python == python


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python-2.7", "Python 3 only"),
        ("r-4.1-2022-01-01", "docker backend"),
        ("3.11", "'3.11'"),
        ("python-3.11; rm -rf /", "expected a version"),
        ("x" * 10_000, "expected a version"),
    ],
)
def test_runtime_txt_that_is_of_no_use(text: str, said: str, tmp_path: Path) -> None:
    made(tmp_path, runtime_txt=text)
    with pytest.raises(RecipeFailed) as failure:
        read_declared(tmp_path)
    assert said in str(failure.value)
    assert len(str(failure.value)) < 300


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ("[build-system]\nrequires = []\n", "."),
        ("[project]\nname = 'x'\n", "pyproject.toml"),
        ("[tool.ruff]\n", ""),
    ],
)
def test_pyproject_toml(text: str, project: str, tmp_path: Path) -> None:
    assert read_declared(made(tmp_path, pyproject_toml=text)).project == project


def test_pyproject_toml_that_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(RecipeFailed, match="no valid TOML"):
        read_declared(made(tmp_path, pyproject_toml="[project\n"))


# -- Fetching ------------------------------------------------------------------------------------


def recipe(url: str, ref: str = COMMIT, **changes: object) -> LocalRecipe:
    given = {"content_provider": "Git", "git": "git", "uv": "uv", "folder": "/srv/x"} | changes
    return LocalRecipe(run_id="r", image="i", repo_url=url, ref=ref, built_file="b", **given)  # type: ignore[arg-type]  # made of words


def fetched(
    tmp_path: Path, recipe: LocalRecipe, statuses: dict[str, int] | None = None
) -> list[Step]:
    """Drive `fetch` by hand: each git command ends with the status that its name has, or 0."""
    home = tmp_path / "home"
    flow = fetch(recipe, tmp_path / "repo", home)
    steps: list[Step] = []
    result: StepResult | None = None
    try:
        while True:
            todo = flow.send(result)
            result = None
            if isinstance(todo, Step):
                steps.append(todo)
                name = " ".join(todo.argv)
                matching = [code for part, code in (statuses or {}).items() if part in name]
                result = StepResult(todo, matching[0] if matching else 0)
            else:
                assert isinstance(todo, Say)
    except StopIteration:
        return steps


def test_git_gets_what_a_user_typed_behind_two_dashes(tmp_path: Path) -> None:
    steps = fetched(tmp_path, recipe("https://example.org/x"))
    (fetch_step,) = [step for step in steps if "fetch" in step.argv]
    assert fetch_step.argv[-3:] == ("--", "https://example.org/x", COMMIT)
    assert {step.phase for step in steps} == {Phase.FETCHING}
    for step in steps:
        assert f"core.hooksPath={os.devnull}" in step.argv


def test_a_server_that_does_not_hand_out_commits_is_asked_for_all(tmp_path: Path) -> None:
    steps = fetched(tmp_path, recipe("https://example.org/x"), {"--depth=1": 128})
    assert [step.argv[-1] for step in steps if "fetch" in step.argv] == [
        COMMIT,
        "+refs/*:refs/remotes/origin/*",
    ]
    assert [step.argv[-1] for step in steps if "checkout" in step.argv] == [COMMIT]


def test_a_ref_that_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(RecipeFailed, match=r"Fetching https://example\.org/x failed"):
        fetched(tmp_path, recipe("https://example.org/x", "main"), {"fetch": 128})


def test_credentials_are_not_in_the_arguments(tmp_path: Path) -> None:
    steps = fetched(tmp_path, recipe("https://me:s3cret@example.org/x.git"))
    for step in steps:
        assert "s3cret" not in " ".join(step.argv)
        assert step.env is not None
        assert step.env["GIT_CONFIG_KEY_0"] == "url.https://me:s3cret@example.org/.insteadOf"
        assert step.env["GIT_CONFIG_VALUE_0"] == "https://example.org/"
    assert "s3cret" not in repr(steps)


@pytest.mark.parametrize(
    "url",
    [
        "-oProxyCommand=x",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "file:///etc",
        "/etc",
        "../x",
        "ftp://example.org/x",
        "https://example.org/\nx",
        "javascript://x",
        "-user@host:x",
        "",
    ],
)
def test_urls_that_git_never_sees(url: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeFailed) as failure:
        fetched(tmp_path, recipe(url))
    assert "git repository" in str(failure.value) or "cannot be fetched here" in str(failure.value)


@pytest.mark.parametrize("ref", ["-x", "--upload-pack=x", "a b", "a\nb", "a:b", "a^", "x" + "\0"])
def test_refs_that_git_never_sees(ref: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeFailed, match="no name of a commit"):
        fetched(tmp_path, recipe("https://example.org/x", ref))


@pytest.mark.parametrize(
    "url", ["https://x.org/a", "git://x.org/a", "ssh://git@x.org/a", "git@x.org:a/b.git"]
)
def test_urls_that_can_be_fetched(url: str, tmp_path: Path) -> None:
    assert fetched(tmp_path, recipe(url))


def test_directories_only_where_they_are_allowed(tmp_path: Path) -> None:
    for url, provider in ((str(tmp_path), "Local"), (str(tmp_path), "Git")):
        with pytest.raises(RecipeFailed):
            fetched(tmp_path, recipe(url, content_provider=provider))
    assert fetched(tmp_path, recipe(str(tmp_path), allow_directories=True))


def test_content_that_git_does_not_keep(tmp_path: Path) -> None:
    with pytest.raises(RecipeFailed, match="Zenodo keeps"):
        fetched(tmp_path, recipe("10.5281/zenodo.1", content_provider="Zenodo"))


def test_git_sees_neither_configuration_nor_package_credentials(tmp_path: Path) -> None:
    ours = {"PATH": "/bin", "HOME": "/home/me", "UV_INDEX_X_PASSWORD": "p", "PIP_INDEX_URL": "u"}
    env = git_environment(ours, "https://example.org/x", tmp_path, file_allowed=False)
    assert env["HOME"] == str(tmp_path)
    assert env["GIT_ALLOW_PROTOCOL"] == "http:https:git:ssh"
    assert env["GIT_TERMINAL_PROMPT"] == "0"
    assert env["GIT_CONFIG_NOSYSTEM"] == "1"
    assert not [name for name in env if name.startswith(("UV_", "PIP_", "GIT_CONFIG_KEY"))]
    allowed = git_environment(ours, "/x", tmp_path, file_allowed=True)
    assert allowed["GIT_ALLOW_PROTOCOL"].endswith(":file")


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://me:a%2Fb@x.org/y", ("a%2Fb", "a/b")),
        ("https://t0ken@x.org/y", ("t0ken", "t0ken")),
        ("ssh://git@x.org/y", ()),
        ("git@x.org:y", ()),
        ("https://x.org/y@z", ()),
    ],
)
def test_what_is_secret_in_a_url(url: str, secrets: tuple[str, ...]) -> None:
    assert url_secrets(url) == secrets


def test_a_directory_is_a_path_or_a_file_url() -> None:
    assert directory_of("/a/b c") == Path("/a/b c")
    assert directory_of("file:///a/b%20c") == Path("/a/b c")


# -- Environments --------------------------------------------------------------------------------

SERVER = {
    "PATH": "/bin",
    "HOME": "/nowhere",
    "https_proxy": "http://proxy:1",
    "SSL_CERT_FILE": "/ca",
    "UV_DEFAULT_INDEX": "https://u:p@packages.example.org/simple",
    "UV_INDEX_MINE_PASSWORD": "p",
    "UV_PUBLISH_TOKEN": "t",
    "PIP_TARGET": "/x",
    "UV_PROJECT_ENVIRONMENT": "/x",
    "LC_ALL": "C.UTF-8",
    "JUPYTERHUB_API_TOKEN": "s",
    "GITHUB_TOKEN": "s",
    "VIRTUAL_ENV": "/server",
    "PYTHONPATH": "/server",
    "MY_SETTING": "x",
}


def test_a_build_gets_the_network_and_the_packages_and_no_secrets_of_the_server() -> None:
    env = build_environment(SERVER)
    assert env == {
        name: SERVER[name]
        for name in (
            "PATH", "HOME", "https_proxy", "SSL_CERT_FILE", "UV_DEFAULT_INDEX",
            "UV_INDEX_MINE_PASSWORD", "LC_ALL",
        )
    }  # fmt: skip
    assert secret_names(env) == ("UV_INDEX_MINE_PASSWORD",)
    assert build_environment(SERVER, ["MY_SETTING"])["MY_SETTING"] == "x"


def test_a_notebook_server_gets_no_package_credentials_either() -> None:
    env = server_environment(SERVER)
    assert not [name for name in env if name.startswith("UV_")]
    assert env["https_proxy"] == "http://proxy:1"


def test_what_pip_was_told_holds_for_uv() -> None:
    env = build_environment({
        "PIP_INDEX_URL": "https://a.example.org/simple",
        "PIP_EXTRA_INDEX_URL": "https://b.example.org\nhttps://c.example.org",
        "PIP_CERT": "/ca",
    })  # fmt: skip
    assert env["UV_DEFAULT_INDEX"] == "https://a.example.org/simple"
    assert env["UV_INDEX"] == "https://b.example.org https://c.example.org"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert env["SSL_CERT_FILE"] == "/ca"


def test_what_uv_was_told_counts_more() -> None:
    env = build_environment({"PIP_INDEX_URL": "https://a", "UV_DEFAULT_INDEX": "https://b"})
    assert env["UV_DEFAULT_INDEX"] == "https://b"
    env = build_environment({"PIP_INDEX_URL": "https://a", "UV_INDEX_URL": "https://b"})
    assert "UV_DEFAULT_INDEX" not in env


def test_pip_in_post_build_finds_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)
    file.touch()
    assert build_environment({"HOME": str(tmp_path)})["PIP_CONFIG_FILE"] == str(file)
    given = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": "/x"}
    assert build_environment(given)["PIP_CONFIG_FILE"] == "/x"


def test_an_activated_environment_comes_first(tmp_path: Path) -> None:
    env = activated({"PATH": "/bin", "XDG_DATA_HOME": "/home/me"}, tmp_path)
    assert env == {"PATH": f"{tmp_path}/bin:/bin", "VIRTUAL_ENV": str(tmp_path)}
    (tmp_path / "conda-meta").mkdir()
    assert activated({}, tmp_path)["CONDA_PREFIX"] == str(tmp_path)


def test_scripts_run_by_their_shebang_or_the_shell(tmp_path: Path) -> None:
    made(tmp_path, start="#!/bin/bash\n", postBuild="echo\n")
    assert script(tmp_path, "start") == (str(tmp_path / "start"),)
    assert os.access(tmp_path / "start", os.X_OK)
    assert script(tmp_path, "postBuild") == ("/bin/sh", str(tmp_path / "postBuild"))


def test_a_folder_that_took_away_its_own_permissions_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    made(folder, "b/c/d")
    (folder / "b" / "c").chmod(0)
    (folder / "b").chmod(0o500)
    remove_tree(folder)
    assert not folder.exists()
    remove_tree(folder)
