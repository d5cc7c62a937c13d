"""What build containers are given, how a push goes, and how an end is told: without an engine."""

from __future__ import annotations

import base64
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from binder_backends.containers import FOLDER, BuildPlan, BuildSettings, byte_size, plan_build
from binder_backends.docker.reading import LogFeed
from binder_backends.docker.runs import Run, is_run_id, read_run
from binder_backends.docker.verdicts import verdict
from binder_backends.runner import CommandRecipe, RunnerOptions
from binder_backends.runner.pushing import (
    PushFailed,
    TryAgain,
    _fail,
    main,
    push_until,
    read_auth,
    tell,
)
from binder_backends.runner.recipes import Say, Step, StepResult, repo2docker
from binder_core.plugin import BackendUnavailable, BuildFailed, BuildRequest, Outcome, encode_log
from binder_core.testing import StrictReport

REQUEST = BuildRequest("build-a", "reg.example:5000/a/b:c", "https://git.example/a", "1" * 40)


def planned(request: BuildRequest = REQUEST, config: bytes = b"", **given: Any) -> BuildPlan:
    return plan_build(msgspec.convert(given, BuildSettings), request, push_config=config)


def options(plan: BuildPlan) -> RunnerOptions:
    return msgspec.json.decode(plan.files[f"{FOLDER}/options.json"], type=RunnerOptions)


def command(plan: BuildPlan) -> tuple[str, ...]:
    recipe = options(plan).recipe
    assert isinstance(recipe, CommandRecipe)
    return recipe.argv


# -- The plan ------------------------------------------------------------------------------------


def test_only_the_content_provider_that_is_needed() -> None:
    plan = planned()
    config = plan.files[f"{FOLDER}/repo2docker_config.py"].decode()
    assert "getattr(contentproviders, 'Git', None)" in config
    compile(config, "config", "exec")
    assert command(plan)[-2:] == ("--", "https://git.example/a")
    assert f"--ref={'1' * 40}" in command(plan)


@pytest.mark.parametrize(
    ("url", "ref", "provider"),
    [
        ("-x", "main", "Git"),
        ("https://a.example", "--upload-pack=x", "Git"),
        ("https://a.example/b c", "main", "Git"),
        ("", "main", "Git"),
        ("https://a.example", "main", "Git']; import os"),
    ],
)
def test_what_nobody_can_fetch_is_refused(url: str, ref: str, provider: str) -> None:
    with pytest.raises(BuildFailed):
        planned(BuildRequest("build-a", "a:b", url, ref, provider))


def test_secrets_are_in_the_files_alone(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    who = {
        "git.example": {"password": "of/git"},
        "b.example": {"password_file": str(tmp_path / "token")},
    }
    url = "https://someone:of%2Furl@git.example/a"
    request = BuildRequest("build-a", "reg.example/a:b", url, "main")
    for runner in (True, False):
        plan = planned(request, b"of-registry", git_credentials=who, push=True, runner=runner)
        seen = f"{plan!r} {plan.argv} {plan.env} {plan.labels}"
        for secret in ("of/git", "of%2F", "from-a-file", "of-registry", "someone"):
            assert secret not in seen
        lines = plan.files[f"{FOLDER}/git-credentials"].decode().splitlines()
        assert lines == [
            "https://someone:of%2Furl@git.example",
            "https://x-access-token:of%2Fgit@git.example",
            "https://x-access-token:from-a-file@b.example",
        ]
        assert plan.files[f"{FOLDER}/config.json"] == b"of-registry"
    assert {"of/git", "of/url", "from-a-file"} <= set(
        options(planned(request, git_credentials=who)).secrets
    )


def test_settings_do_not_show_passwords() -> None:
    given = msgspec.convert({"git_credentials": {"a": {"password": "hidden-one"}}}, BuildSettings)
    assert "hidden-one" not in repr(given)


@pytest.mark.parametrize(
    "host",
    ["github.com/org", "https://github.com/", "me@github.com", "ssh://github.com", "", "a b"],
)
def test_git_credentials_are_for_a_host(host: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="git_credentials are by host"):
        planned(git_credentials={host: {"password": "hidden-one"}})
    for good in ("github.com", "git.example:8443", "http://[::1]:3000", "https://GitHub.com"):
        planned(git_credentials={good: {"password": "hidden-one"}})


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    who = {"git.example": {"password_file": str(tmp_path / "none")}}
    with pytest.raises(BackendUnavailable, match=r"git\.example") as error:
        planned(git_credentials=who)
    assert str(tmp_path) not in error.value.message


def test_a_stock_image_pushes_itself() -> None:
    plan = planned(config=b"{}", push=True, runner=False)
    assert plan.argv[0] == "jupyter-repo2docker"
    assert "--push" in plan.argv
    assert plan.env["DOCKER_CONFIG"] == FOLDER
    assert "--push" not in command(planned(config=b"{}", push=True))


@pytest.mark.parametrize(("push", "runner"), [(True, False), (False, False), (True, True)])
def test_buildx_loads_or_pushes_and_never_both(*, push: bool, runner: bool) -> None:
    class Config:
        Repo2Docker, DockerEngine = Namespace(), Namespace()

    code = planned(push=push, runner=runner).files[f"{FOLDER}/repo2docker_config.py"].decode()
    code = code.replace("from repo2docker", "#")
    engine = type("DockerEngine", (), {"extra_buildx_build_args": None})
    known = {"c": Config, "contentproviders": Namespace(Git=1), "DockerEngine": engine}
    exec(code, known)
    loads = vars(Config.DockerEngine).get("extra_buildx_build_args") == ["--load"]
    assert loads is not (push and not runner)


def test_sizes() -> None:
    assert [byte_size(text) for text in ("", "100", "2G", "1.5M", "1Gi", "10 kB")] == [
        0, 100, 2 * 2**30, 3 * 2**19, 2**30, 10 * 1024,
    ]  # fmt: skip
    with pytest.raises(msgspec.ValidationError, match="512M or 2G"):
        planned(memory_limit="much")


# -- The push ------------------------------------------------------------------------------------


def test_the_push_comes_after_repo2docker() -> None:
    recipe = options(planned(config=b"{}", push=True)).recipe
    assert isinstance(recipe, CommandRecipe)
    flow = repo2docker(recipe)
    step = next(flow)
    assert isinstance(step, Step)
    push = flow.send(StepResult(step, 0))
    assert not isinstance(push, Say)
    assert isinstance(push, Step)
    assert "--image=reg.example:5000/a/b:c" in push.argv
    assert f"--config={FOLDER}/config.json" in push.argv
    assert "--host=unix:///var/run/docker.sock" in push.argv
    with pytest.raises(Exception, match=r"^the registry said no$"):
        flow.send(StepResult(push, 1, ("one line", "the registry said no")))


@pytest.mark.parametrize(
    "said",
    ["dd: error writing '/big': No space left on device", "write /x: no space left on device"],
)
def test_a_full_disk_is_known_by_its_words(said: str) -> None:
    recipe = options(planned()).recipe
    assert isinstance(recipe, CommandRecipe)
    flow = repo2docker(recipe)
    step = next(flow)
    assert isinstance(step, Step)
    with pytest.raises(Exception, match="The disk of the Docker engine is full"):
        flow.send(StepResult(step, 1, (said,)))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("denied: requested access to the resource is denied", "refused the push"),
        ("unauthorized: authentication required", "refused the push"),
        ("no basic auth credentials", "refused the push"),
        ("received unexpected HTTP status: 413 Request Entity Too Large", "refused the push"),
        ('Get "https://r/v2/": http: server gave HTTP response to HTTPS client', "insecure-"),
        ("x509: certificate signed by unknown authority", "certificate"),
        ("write /var/x: no space left on device", "no space is left"),
        ("An image does not exist locally with the tag: a", "has no image"),
    ],
)
def test_a_push_that_never_works_says_what_to_do(said: str, words: str) -> None:
    with pytest.raises(PushFailed, match=words) as failure:
        _fail("reg.example/a:b", said)
    assert "reg.example" in str(failure.value)


@pytest.mark.parametrize(
    "said",
    [
        'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
        "received unexpected HTTP status: 503 Service Unavailable",
        "dial tcp: lookup reg.example: no such host",
        "net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
        "unexpected EOF",
    ],
)
def test_a_push_that_may_work_later_is_tried_again(said: str) -> None:
    with pytest.raises(TryAgain):
        _fail("reg.example/a:b", said)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_the_delays_grow_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def away() -> Iterator[Mapping[str, Any]]:
        raise TryAgain("connection refused")

    with pytest.raises(PushFailed, match=r"reg\.example has not taken the image for 40 s"):
        push_until("reg.example/a:b", away, 40, clock=clock, sleep=clock.sleep)
    assert clock.pauses == [1, 2, 4, 8, 15, 10]
    assert capsys.readouterr().out.count("does not take the image") == 6


def test_progress_gives_a_push_new_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock, tries = Clock(), iter(range(5))

    def flaky() -> Iterator[Mapping[str, Any]]:
        yield {"id": "a", "status": "Pushing", "progressDetail": {"current": 1, "total": 2}}
        if next(tries) < 4:
            raise TryAgain("connection refused")

    push_until("reg.example/a:b", flaky, 2, clock=clock, sleep=clock.sleep)
    assert clock.pauses == [1, 1, 1, 1]
    assert "Successfully pushed reg.example/a:b" in capsys.readouterr().out


def test_what_is_told_of_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    more = {"current": 9_000_000, "total": 7_000_000}
    assert tell({"id": "a", "status": "Pushing", "progressDetail": more})
    assert tell({"id": "a", "status": "Pushed", "progressDetail": {}})
    assert not tell({"id": "a", "status": "Waiting", "progressDetail": {}})
    assert not tell({"status": "The push refers to repository [x]"})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["message"] == "Pushing a: 7.0 MB of 7.0 MB\n"
    assert lines[1]["progress"] == {"a": "Pushed"}


def test_logins(tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:a:b").decode()
    (tmp_path / "one").write_text(json.dumps({"auths": {"reg.example": {"auth": auth}}}))
    assert read_auth(str(tmp_path / "one")) == {
        "username": "me",
        "password": "a:b",
        "serveraddress": "reg.example",
    }
    (tmp_path / "two").write_text('{"auths": {"reg.example": {"identitytoken": "t"}}}')
    assert read_auth(str(tmp_path / "two"))["identitytoken"] == "t"
    assert read_auth("") == {}
    (tmp_path / "bad").write_text("secret, but no JSON")
    with pytest.raises(PushFailed) as failure:
        read_auth(str(tmp_path / "bad"))
    assert "secret" not in str(failure.value)


def test_no_engine_to_push_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    socket = str(tmp_path / "no.sock")
    assert main([f"--host=unix://{socket}", "--image=reg.example/a:b", "--retry-for=0"]) == 1
    said = capsys.readouterr().out
    assert "The Docker engine has not answered" in said
    assert "No such file" in said
    assert socket not in said


# -- How it ended --------------------------------------------------------------------------------


def run(**changes: Any) -> Run:
    given: dict[str, Any] = {
        "container": "c" * 64, "build": "build-a", "name": "build-a", "state": "exited",
        "exit_code": 137, "out_of_memory": False, "has_runner": True, "began": 0.0, "ended": 1.0,
    }  # fmt: skip
    return Run(**{**given, **changes})


def fed(*lines: bytes, stream: int = 1, numbered: bool = True) -> LogFeed:
    report = StrictReport()
    report.started("r")
    feed = LogFeed(report, numbered=numbered, max_bytes=10_000)
    for line in lines:
        feed.feed(stream, line)
    feed.end()
    return feed


BUILT, FAILED = encode_log(Outcome(1, built=True)), encode_log(Outcome(1, False, "no such package"))

TORN = b"Error grabbing logs: unexpected EOF\n"
CRASH = b"""\
  File "/opt/site-packages/binder_backends/runner/__main__.py", line 83, in read_options
    return msgspec.json.decode(text, type=RunnerOptions)
msgspec.ValidationError: x
"""


@pytest.mark.parametrize(
    ("ended", "feed", "reason", "there", "words"),
    [
        (run(exit_code=0), fed(BUILT), "", True, ""),
        (run(exit_code=0), fed(BUILT), "", False, "its image is not there"),
        (run(exit_code=1), fed(FAILED), "", False, "no such package"),
        (run(exit_code=1), fed(FAILED), "", True, "no such package"),
        (None, fed(BUILT), "", True, ""),
        (None, fed(), "", True, ""),
        (None, fed(), "", False, "was removed"),
        (run(), fed(), "", False, "cut off"),
        (run(), fed(), "", True, ""),
        (run(), fed(), "in the way", False, "in the way"),
        (run(out_of_memory=True), fed(), "", False, "memory_limit"),
        (
            run(exit_code=1),
            fed(b"No module named binder_backends\n", stream=2),
            "",
            False,
            "runner = false",
        ),
        (run(exit_code=1), fed(b"oh dear\n", stream=2), "", False, "oh dear"),
        (run(exit_code=1), fed(CRASH, stream=2), "", False, "failed: msgspec.ValidationError: x"),
        (run(exit_code=1), fed(), "", False, "disk of the Docker engine full"),
        (run(exit_code=1), fed(TORN, stream=3), "", False, "disk of the Docker engine full"),
        (run(exit_code=0, has_runner=False), fed(numbered=False), "", True, ""),
        (run(exit_code=3, has_runner=False), fed(numbered=False), "", False, "exit status 3"),
        (run(exit_code=3, has_runner=False), fed(numbered=False), "", True, "exit status 3"),
        (run(exit_code=137, has_runner=False), fed(numbered=False), "", False, "cut off"),
    ],
)
def test_verdicts(ended: Run | None, feed: LogFeed, reason: str, there: bool, words: str) -> None:  # noqa: FBT001 - a table
    said = verdict(ended, feed, reason, there=there)
    assert words in said
    assert bool(said) is bool(words)


def test_lines_of_two_streams_are_put_together() -> None:
    report = StrictReport()
    report.started("r")
    feed = LogFeed(report, numbered=False, max_bytes=10_000)
    for stream, data in [(1, b"on"), (2, b"tw"), (1, b"e\n"), (2, b"o\nthr"), (2, b"ee")]:
        feed.feed(stream, data)
    feed.end()
    assert [line.message for line in report.lines.values()] == ["one\n", "two\n", "three\n"]
    assert report.faults == []


def test_what_the_engine_says_of_a_run() -> None:
    said = {
        "Id": "0123456789abcdef" * 4,
        "Name": "/build-a",
        "Created": "2026-11-24T11:52:36.587448760Z",
        "Config": {"Labels": {"io.binderkit.build": "build-a", "io.binderkit.runner": "yes"}},
        "State": {"Status": "exited", "ExitCode": 1, "FinishedAt": "2026-11-24T11:52:37Z"},
    }
    found = read_run(said)
    assert found is not None
    assert (found.id, found.name, found.over, found.has_runner) == (
        "0123456789abcdef",
        "build-a",
        True,
        True,
    )
    assert found.ended - found.began == 1.0
    assert is_run_id(found.id)
    assert not is_run_id("../../etc")
    assert read_run({**said, "Config": {"Labels": None}}) is None
    # A notebook server has the labels of its image, whatever these are.
    assert read_run({**said, "Name": "/a-server"}) is None
    assert read_run({**said, "Name": f"/build-a.{found.id}"}) is not None
