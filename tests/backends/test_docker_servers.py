"""What a server's container is asked to be, and what the words of a pull mean: no engine."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from binder_backends.docker.launch_settings import DockerLaunchSettings
from binder_backends.docker.pulling import _Layers, _login_header, _refusal
from binder_backends.docker.servers import (
    SERVER_LABEL,
    probed_host,
    read_server,
    server_config,
    server_url,
    user_of,
)
from binder_core.plugin import BackendUnavailable, LaunchFailed, LaunchRequest

REQUEST = LaunchRequest("one", "r.example/x:1", "t0ken", repo_url="https://u:pw@host/r")
PASSWD = b"root:x:0:0::/root:/bin/sh\nbroken\njovyan:x:1000:100::/home/jovyan:/bin/sh\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", 0),
        ("root", 0),
        ("0", 0),
        ("1000", 1000),
        ("1001:100", 1001),
        ("jovyan", 1000),
        ("jovyan:users", 1000),
        ("nobody-knows", None),
        ("broken", None),
    ],
)
def test_whom_an_image_runs_as(user: str, expected: int | None) -> None:
    assert user_of(user, PASSWD) == expected


def test_root_needs_no_entry() -> None:
    assert user_of("root", b"") == 0


def test_nothing_that_is_asked_for_is_a_secret() -> None:
    told = json.dumps(server_config(DockerLaunchSettings(), REQUEST, port=4000, root=False))
    assert "t0ken" not in told
    assert "pw" not in told


def config(root: bool = False, **options: Any) -> dict[str, Any]:  # noqa: FBT001, FBT002
    settings = msgspec.convert(options, DockerLaunchSettings)
    return server_config(settings, REQUEST, port=options.get("port", 0), root=root)


def test_the_command() -> None:
    assert "--allow-root" in config(root=True)["Cmd"]
    assert "--allow-root" not in config()["Cmd"]
    assert config(command=["my-jupyter"])["Cmd"][0] == "my-jupyter"
    for app in ("ServerApp", "NotebookApp"):  # the second is Notebook 6's
        assert f"--{app}.allow_origin=*" in config(allow_origin="*")["Cmd"]
        assert f"--{app}.shutdown_no_activity_timeout=77" in config(idle_timeout=77)["Cmd"]
    assert not [word for word in config(idle_timeout=0)["Cmd"] if "no_activity" in word]


@pytest.mark.parametrize(
    ("options", "url", "probed"),
    [
        ({}, "http://127.0.0.1:4000/", "127.0.0.1"),
        ({"address": "192.0.2.7"}, "http://192.0.2.7:4000/", "192.0.2.7"),
        ({"address": "::1"}, "http://[::1]:4000/", "::1"),
        # Every address is asked at loopback, and told by this machine's name.
        ({"address": "0.0.0.0"}, "http://here:4000/", "127.0.0.1"),
        ({"address": "::"}, "http://here:4000/", "::1"),
        ({"url_host": "nb.example.org"}, "http://nb.example.org:4000/", "127.0.0.1"),
        ({"address": "::", "url_host": "2001:db8::1"}, "http://[2001:db8::1]:4000/", "::1"),
        ({"address": "0.0.0.0", "probe_host": "host"}, "http://here:4000/", "host"),
        ({"probe_host": "::1"}, "http://127.0.0.1:4000/", "::1"),
    ],
)
def test_where_a_server_is_told_to_be_and_where_it_is_asked(
    options: dict[str, Any], url: str, probed: str
) -> None:
    settings = msgspec.convert(options, DockerLaunchSettings)
    assert server_url(settings, 4000, this_machine="here") == url
    assert probed_host(settings) == probed


def test_no_limits() -> None:
    given = config(memory_limit="", pids_limit=0)["HostConfig"]
    assert (given["Memory"], given["NanoCpus"], given["PidsLimit"]) == (0, 0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_limit": "lots"},
        {"cpu_limit": -1.0},
        {"address": ""},
        {"address": "[::1]"},
        {"url_host": "[2001:db8::1]:80"},
        {"probe_host": "[::1]"},
        {"server_log_cap_bytes": 1},
        {"no_such_setting": 1},
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, DockerLaunchSettings)


@pytest.mark.parametrize(
    "labels", [None, {}, {"other": "one"}, {SERVER_LABEL: "yes"}, {SERVER_LABEL: ""}]
)
def test_what_is_no_server_of_ours(labels: dict[str, str] | None) -> None:
    assert read_server({"Name": "/one", "Config": {"Labels": labels}}) is None


def test_how_far_a_pull_is() -> None:
    layers = _Layers()
    for status, current in (("Pulling fs layer", None), ("Downloading", 3), ("Downloading", 4)):
        detail = {"current": current * 10**6, "total": 10**7} if current else {}
        layers.take({"id": "aa", "status": status, "progressDetail": detail})
    layers.take({"id": "bb", "status": "Downloading", "progressDetail": {"current": 10**6}})
    layers.take({"status": "Digest: sha256:x"})
    assert str(layers) == "5.0 of 11.0 MB"
    layers.take({"id": "aa", "status": "Download complete", "progressDetail": {}})
    assert str(layers) == "11.0 of 11.0 MB"


@pytest.mark.parametrize(
    ("said", "expected", "told"),
    [
        ("manifest for r/x:1 not found: manifest unknown: manifest unknown", LaunchFailed, "Build"),
        ("pull access denied for r/x, repository does not exist", BackendUnavailable, "login"),
        ("Head https://r/v2: unauthorized: authentication required", BackendUnavailable, "login"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", BackendUnavailable, "refused"),
        ("write /x: no space left on device", BackendUnavailable, "prune"),
    ],
)
def test_why_a_pull_was_refused(said: str, expected: type[Exception], told: str) -> None:
    refusal = _refusal("r/x:1", said)
    assert type(refusal) is expected
    assert told in refusal.message


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"auth": base64.b64encode(b"me:pass:word").decode()},
            {"username": "me", "password": "pass:word"},
        ),
        ({"identitytoken": "tok"}, {"identitytoken": "tok"}),
    ],
)
def test_a_login_as_the_engine_takes_it(entry: dict[str, str], expected: dict[str, str]) -> None:
    header = _login_header(msgspec.json.encode({"auths": {"r.example": entry}}))
    assert json.loads(base64.urlsafe_b64decode(header)) == {"serveraddress": "r.example"} | expected
    assert _login_header(b"") == ""
