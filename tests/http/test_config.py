from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from binder_backends.fake import FakeBuilder
from binder_core.errors import ConfigError
from binder_http import assembly
from binder_http.config import Config, effective, load, render
from binder_http.filling import HIDDEN, fill, shown, tree

SECRET = "s3cret-s3cret-s3cret"


def loaded(toml: str, tmp_path: Path, **more: Any) -> Config:
    path = tmp_path / "binder.toml"
    path.write_text('[builder]\nkind = "fake"\n' + toml)
    return load(path, **{"env": {}, **more})


def refused(match: str, **sources: Any) -> str:
    flags = {"builder.kind": "fake"} | sources.pop("flags", {})
    with pytest.raises(ConfigError, match=match) as caught:
        load(sources.pop("path", None), sources.pop("env", {}), flags)
    return str(caught.value)


# -- Sources --------------------------------------------------------------------------------------


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    toml = "[server]\nport = 1\nhost = '::1'\nretry = 1\n"
    env = {"BINDER_SERVER__PORT": "2", "BINDER_SERVER__HOST": "127.0.0.2"}
    config = loaded(toml, tmp_path, env=env, flags={"server.port": 3})
    assert (config.server.port, config.server.host, config.server.retry) == (3, "127.0.0.2", 1.0)


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text("builder.kind = 'fake'\nserver.port = 7\n")
    assert load(env={"BINDER_CONFIG": str(path)}).server.port == 7


def test_flags_nested_dotted_and_not_given() -> None:
    flags = {
        "builder": {"kind": "fake", "fake": {"lines": 3}},
        "builder.fake.rate": 2.5,
        "server.port": "99",
        "server.host": None,
        "security": {"origins": None},
    }
    config = load(env={}, flags=flags)
    assert isinstance(config.builder.settings, FakeBuilder.Settings)
    settings: Any = config.builder.settings
    assert (settings.lines, settings.rate) == (3, 2.5)
    assert (config.server.port, config.server.host) == (99, "127.0.0.1")


def test_text_stands_for_what_is_expected() -> None:
    env = {
        "BINDER_BUILDER__KIND": "fake",
        "BINDER_SERVER__BUILD_ONLY": "true",
        "BINDER_SERVER__LINGER": "2",
        "BINDER_SECURITY__ORIGINS": "https://a.example, https://b.example",
        "BINDER_SECURITY__TOKEN": "12345",
        "BINDER_SECURITY__HOSTS": '["a", "b"]',
        "BINDER_LIMITS__MAX_BUILDS": "4",
        "BINDER_ASKER__CREDENTIALS": '{"git.example" = {value = "Bearer x"}}',
        "BINDER_PROVIDERS__LAB__KIND": "gl",
        "BINDER_REPO_URL": "what notebooks are given is none of ours",
        "BINDERHUB__X": "neither",
    }
    config = load(env=env)
    assert config.server.build_only is True
    assert config.server.linger == 2.0
    assert config.security.origins == ("https://a.example", "https://b.example")
    assert config.security.token == "12345"
    assert config.security.hosts == ("a", "b")
    assert config.limits.max_builds == 4
    assert config.asker.credentials["git.example"].value == "Bearer x"
    assert config.providers["lab"].kind == "gl"


# -- What is wrong is named -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"server.prot": 1}, r"^server\.prot: there is no such setting.*mean server\.port\?"),
        ({"sever.port": 1}, r"^sever: there is no such setting.*did you mean server\?"),
        ({"port": 1}, r"^port: .*did you mean server\.port\?"),
        ({"nonsense": 1}, r"^nonsense: .*known: asker, builder,"),
        ({"server": 1}, r"^server: expected a table, got 1"),
        ({"server.port": "many"}, r"^server\.port: expected `int`.*'many' \(flag\)"),
        ({"server.port": 1.5}, r"^server\.port: expected `int`, got `float`; given: 1\.5"),
        ({"server.port": 65536}, r"^server\.port: expected `int` <= 65535"),
        ({"server.linger": -1.0}, r"^server\.linger: expected `float` >= 0"),
        ({"server.port": {"x": 1}}, r"^server\.port: expected `int`, got a table"),
        ({"server.base_url": "x"}, r"^server: base_url is a path.*'x'"),
        ({"server.public_url": "x"}, r"^server: public_url is like"),
        ({"security.origins": "a.example"}, r"^security: origins are like https://"),
        ({"security.auth": "tokens"}, r"^security\.auth: expected one of .*mean 'token'\?"),
        ({"security.hosts": [1]}, r"^security\.hosts\[0\]: expected `str`, got `int`"),
        ({"limits.max_builds": "x"}, r"^limits\.max_builds: expected `int \| null`"),
        ({"asker.allow_networks": "1.2.3.4/99"}, r"^asker: .*1\.2\.3\.4/99"),
        ({"builder.kind": "fack"}, r"^builder\.kind: .*'fack'.*did you mean 'fake'\?"),
        ({"builder.fack.lines": 1}, r"^builder\.fack: .*did you mean builder\.fake\?"),
        ({"builder.fake": 1}, r"^builder\.fake: expected a table"),
        ({"builder.fake.line": 1}, r"^builder\.fake\.line: .*mean builder\.fake\.lines\?"),
        ({"builder.fake.lines": -1}, r"^builder\.fake\.lines: expected `int` >= 0"),
        ({"launcher.kind": "x"}, r"^launcher\.kind: .*installed: .*fake"),
        ({"launcher.fake.delay": "x"}, r"^launcher\.fake\.delay: expected `float`"),
        ({"providers.gh": 1}, r"^providers\.gh: expected a table"),
        ({"providers.gh.hots": "x"}, r"^providers\.gh\.hots: .*mean providers\.gh\.host\?"),
        ({"providers.lab.host": "x"}, r"^providers\.lab\.kind: is missing"),
        ({"providers.lab.kind": "gx"}, r"^providers\.lab\.kind: .*'gx'"),
        ({"providers": {"a/b": {"kind": "gl"}}}, r"^providers\.a/b: a prefix is"),
    ],
)
def test_a_wrong_setting(flags: dict[str, Any], match: str) -> None:
    refused(match, flags=flags)


def test_where_it_came_from_is_said(tmp_path: Path) -> None:
    path = tmp_path / "binder.toml"
    path.write_text("[server]\nport = 'x'\n")
    refused(rf"server\.port: .*{re.escape(str(path))}", path=path)
    refused(r"\(environment variable BINDER_SERVER__PORT\)", env={"BINDER_SERVER__PORT": "x"})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    refused("cannot be read: No such file", path=tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[server\n")
    refused("is no TOML", path=broken)


def test_a_wrong_secret_is_not_repeated() -> None:
    for flags in (
        {"security.token": [SECRET]},
        {"asker.credentials": {"git.example": {"value": [SECRET]}}},
        {"asker.credentials": SECRET},
        {"security.key": SECRET[:8]},
    ):
        said = refused("security|asker", flags=flags)
        assert SECRET[:8] not in said


def test_another_builder_needs_a_launcher_named() -> None:
    refused(r"launcher\.kind", flags={"launcher.kind": "fakes"})


# -- Plug-ins -------------------------------------------------------------------------------------


def test_the_launcher_is_by_default_the_builders_namesake() -> None:
    config = load(env={}, flags={"builder.kind": "fake"})
    assert config.launcher is not None
    assert config.launcher.kind == "fake"
    assert load(env={}, flags={"builder.kind": "fake", "launcher.kind": "none"}).launcher is None


def test_providers_are_all_that_are_installed(tmp_path: Path) -> None:
    config = loaded("[providers.gl]\nenabled = false\n", tmp_path)
    assert {"gh", "git"} <= set(config.providers)
    assert "gl" not in config.providers


def test_several_of_one_kind(tmp_path: Path) -> None:
    toml = """
    [providers.lab]
    kind = "gl"
    host = "lab.example"
    [providers.gl]
    host = "gitlab.example"
    """
    config = loaded(toml, tmp_path)
    made = assembly.make_providers(config)
    assert made["lab"].prefix == "lab"
    assert "lab.example" in made["lab"].display.repo_label
    assert "gitlab.example" in made["gl"].display.repo_label


def test_a_table_of_a_plugin_that_is_not_chosen_may_stay(tmp_path: Path) -> None:
    config = loaded("[launcher]\nkind = 'none'\n[launcher.fake]\ndelay = 3\n", tmp_path)
    assert config.launcher is None


# -- Without secrets ------------------------------------------------------------------------------

SECRETS = {
    "security.token": SECRET,
    "security.key": SECRET,
    "asker.credentials": {"git.example": {"value": f"Bearer {SECRET}"}},
}


def test_nothing_that_is_shown_holds_a_secret() -> None:
    config = load(env={}, flags={"builder.kind": "fake"} | SECRETS)
    for text in (render(config), repr(config), str(config), repr(effective(config))):
        assert SECRET not in text
    assert effective(config)["security"]["token"] == HIDDEN
    assert effective(config)["asker"]["credentials"] == {"git.example": HIDDEN}


def test_a_secret_that_is_not_set_shows_as_such() -> None:
    config = load(env={}, flags={"builder.kind": "fake"})
    assert effective(config)["security"]["token"] == ""


class Odd(msgspec.Struct, frozen=True):
    """A plug-in's settings."""

    plain: str = "x"
    marked: Annotated[str, msgspec.Meta(extra={"secret": True})] = "x"
    maybe: Annotated[str, msgspec.Meta(extra={"secret": True})] | None = "x"
    api_token: str = "x"
    needs_password: bool = True
    tokenizer: str = "x"


def test_what_counts_as_a_secret() -> None:
    assert shown(Odd()) == {
        "plain": "x",
        "marked": HIDDEN,
        "maybe": HIDDEN,
        "api_token": HIDDEN,
        "needs_password": True,
        "tokenizer": "x",
    }


def test_a_required_setting_is_asked_for() -> None:
    class Needs(msgspec.Struct):
        url: str

    with pytest.raises(ConfigError, match=r"^builder\.x\.url: is missing"):
        fill(Needs, {}, "builder.x")
    assert fill(Needs, tree({"url": "u"}, "here"), "builder.x").url == "u"


def test_what_is_shown_can_be_loaded_again(tmp_path: Path) -> None:
    config = load(env={}, flags={"builder.kind": "fake", "security.origins": "*"})
    path = tmp_path / "shown.toml"
    path.write_text(render(config))
    assert tomllib.loads(path.read_text())["builder"]["kind"] == "fake"
    assert load(path, env={}) == config


# -- The key --------------------------------------------------------------------------------------


def stateful(tmp_path: Path, **flags: Any) -> Config:
    given = {"builder.kind": "fake", "server.state_dir": str(tmp_path / "state"), **flags}
    return load(env={}, flags=given)


def test_a_key_is_made_once_and_for_this_user_only(tmp_path: Path) -> None:
    config = stateful(tmp_path)
    key = assembly.signing_key(config)
    assert len(key) >= 32
    assert assembly.signing_key(config) == key
    (file,) = (tmp_path / "state").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    config = stateful(tmp_path)
    assembly.signing_key(config)
    (file,) = (tmp_path / "state").iterdir()
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        assembly.signing_key(config)


def test_a_key_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    config = stateful(tmp_path)
    assembly.signing_key(config)
    (file,) = (tmp_path / "state").iterdir()
    file.write_text("short")
    with pytest.raises(ConfigError, match="less than 16 bytes"):
        assembly.signing_key(config)


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"^security\.key: is not given"):
        assembly.signing_key(stateful(tmp_path))


def test_a_given_key_needs_no_file(tmp_path: Path) -> None:
    config = stateful(tmp_path, **{"security.key": "k" * 16})
    assert assembly.signing_key(config) == b"k" * 16
    assert not (tmp_path / "state").exists()


def test_the_token_stays_the_same_over_a_restart(tmp_path: Path) -> None:
    config = stateful(tmp_path, **{"security.auth": "token"})
    token = assembly.access_token(config)
    assert len(token) >= 32
    assert assembly.access_token(stateful(tmp_path, **{"security.auth": "token"})) == token
    other = stateful(tmp_path / "other", **{"security.auth": "token"})
    assert assembly.access_token(other) != token


def test_whether_a_token_is_needed(tmp_path: Path) -> None:
    assert assembly.access_token(stateful(tmp_path)) == ""
    given = stateful(tmp_path, **{"security.auth": "token", "security.token": "t"})
    assert assembly.access_token(given) == "t"


def test_where_code_runs_as_this_user_a_token_is_needed() -> None:
    config = load(env={}, flags={"builder.kind": "fake"})
    assert (config.local, config.needs_token) == (False, False)
    builder = msgspec.structs.replace(config.builder, kind="local")
    local = msgspec.structs.replace(config, builder=builder)
    assert (local.local, local.needs_token) == (True, True)
    security = msgspec.structs.replace(local.security, auth="none")
    assert not msgspec.structs.replace(local, security=security).needs_token


# -- The page for operators -----------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (?:`(.*?)`|not given) \|", re.MULTILINE)


def test_each_setting_is_on_the_page_with_its_default() -> None:
    config = load(env={}, flags={"builder.kind": "fake"})
    told = dict(ROW.findall(PAGE))
    for section in ("server", "security", "limits", "asker", "metrics", "protocol", "records"):
        struct: Any = getattr(config, section)
        for field in msgspec.structs.fields(struct):
            default = json.loads(msgspec.json.encode(getattr(struct, field.name)))
            said = told.pop(f"{section}.{field.encode_name}")
            assert (tomllib.loads(f"x = {said}")["x"] if said else None) == default, field.name
    left = {name for name in told if name.partition(".")[0] not in {"builder", "launcher"}}
    assert left == {"records.sql.url", "records.sql.timeout"}, "a store's own are not in `config`"


def test_the_pages_example_is_good(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "binder.toml"
    path.write_text(example)
    config = load(path, env={})
    assert config.server.public_url == "https://binder.example.org/"
    assert "gl" not in config.providers
    assert config.providers["lab"].kind == "gl"
    inline = re.search(r"BINDER_ASKER__CREDENTIALS='(.*?)'", PAGE)
    assert inline is not None
    environment = {"BINDER_ASKER__CREDENTIALS": inline[1], "BINDER_BUILDER__FAKE__LINES": "20"}
    assert load(path, environment).asker.credentials == config.asker.credentials
