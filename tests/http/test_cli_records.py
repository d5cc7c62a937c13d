"""``binder keys`` and ``binder db``."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from binder_http import keys
from binder_http.assembly import make_store
from binder_http.cli import main
from binder_http.config import load


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDER_SERVER__STATE_DIR", str(tmp_path))
    monkeypatch.setenv("BINDER_BUILDER__KIND", "fake")


def binder(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def good(key: str) -> bool:
    async def ask() -> bool:
        async with make_store(load()) as store:
            return await keys.is_good(store, key)

    return asyncio.run(ask())


def test_keys_are_made_listed_and_revoked() -> None:
    made = [binder("keys", "create", name) for name in ("for Ada", "for Bob")]
    assert [result.exit_code for result in made] == [0, 0]
    ada, bob = (result.output.strip() for result in made)
    assert good(ada)
    assert good(bob)
    assert not good(ada[:-1])
    revoked = binder("keys", "revoke", ada.partition(".")[0])
    assert revoked.exit_code == 0
    assert not good(ada)
    assert good(bob)
    listed = binder("keys", "list").output
    head, first, second = listed.splitlines()
    assert head.split() == ["ID", "NAME", "CREATED", "STATE"]
    assert "for Ada" in first
    assert first.endswith("revoked")
    assert "for Bob" in second
    assert second.endswith("good")
    assert bob.partition(".")[2] not in listed


def test_a_key_can_be_revoked_by_all_of_it() -> None:
    key = binder("keys", "create").output.strip()
    assert binder("keys", "revoke", key).exit_code == 0
    assert not good(key)
    again = binder("keys", "revoke", key)
    assert again.exit_code == 1
    assert "binder keys list" in again.output
    assert key.partition(".")[2] not in again.output


def test_the_database_is_made_and_upgraded(tmp_path: Path) -> None:
    for _ in range(2):
        result = binder("db", "upgrade")
        assert result.exit_code == 0
        assert result.output == "The database of records is up to date.\n"
    with sqlite3.connect(tmp_path / "records.sqlite") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    database.close()


def test_a_template_that_is_not_there_is_not_removed() -> None:
    result = binder("db", "remove-template", "x")
    assert result.exit_code == 1
    assert "There is no template 'x'" in result.output


def test_a_database_that_is_away_is_told_without_its_password() -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/x"
    result = binder("keys", "list", "--set", f"records.sql.url={url}")
    assert result.exit_code == 1
    assert "The database of records cannot be" in result.output
    assert "hunter2" not in result.output


def test_the_url_is_no_part_of_the_configuration_shown() -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/x"
    result = binder("config", "--set", f"records.sql.url={url}", "--set", "records.lease=5")
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert "lease = 5.0" in result.output


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("records.kind=oracle", "records.kind"),
        ("records.sql.uri=x", "did you mean records.sql.url?"),
        ("records.lease=0", "records.lease"),
        ("protocol.enabled=perhaps", "protocol.enabled"),
    ],
)
def test_settings_that_are_none(setting: str, words: str) -> None:
    result = binder("db", "upgrade", "--set", setting)
    assert result.exit_code == 2
    assert words in result.output
