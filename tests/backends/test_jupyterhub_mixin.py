"""The hub's side as such, without a hub: what it allows, and what it has in common with ours."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from binder_backends.docker import servers
from binder_backends.jupyter import idle_arguments
from binder_core import naming

SOURCE = Path(__file__).parents[2] / "src" / "binder_backends" / "jupyterhub" / "spawner.py"


class HTTPError(Exception):
    pass


def trait(value: object, **_: object) -> object:
    return value


def decorator(_: str) -> Callable[[Any], Any]:
    return lambda function: function


@pytest.fixture
def spawner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the mixins' module, in the place of a hub's libraries what it needs of them."""
    stand_ins: dict[str, dict[str, Any]] = {
        "tornado.web": {"HTTPError": HTTPError},
        "traitlets": {
            **dict.fromkeys(("Bool", "Float", "Unicode"), trait),
            **dict.fromkeys(("default", "validate"), decorator),
        },
        "traitlets.config": {"Configurable": object},
    }
    for name, members in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))
    found = importlib.util.spec_from_file_location("spawner_alone", SOURCE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def allows(spawner: ModuleType, image: str, *, prefix: str = "", pattern: str = "") -> bool:
    mixin = spawner.BinderMixin()
    mixin.binder_image_prefix, mixin.binder_image_pattern = prefix, pattern
    try:
        assert mixin._allowed(image) == image
    except HTTPError:
        return False
    return True


PREFIXES = ("binder-", "quay.io/binder-", "registry.example:5000/My_Org/binder-", "127.0.0.1:5001/")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_binder_names_with_the_prefix_is_started(spawner: ModuleType, prefix: str) -> None:
    for slug, ref in (("user-repo", "1" * 40), ("Ünï_cödé/x", "v1.2"), ("x" * 400, "main")):
        image = naming.image_name(prefix, slug, ref)
        assert allows(spawner, image, prefix=prefix), image
        assert allows(spawner, image, prefix=prefix.lower().replace("_", "-")), image


@pytest.mark.parametrize(
    ("prefix", "image"),
    [
        ("binder-", "binder-evil.example.com/x:latest"),
        ("binder-", "binder-evil.example.com:5000/x-0a1b2c:latest"),
        ("binder-", "binder-x/evil-0a1b2c:latest"),
        ("binder-", "binder-x-0a1b2c"),
        ("binder-", "binder-x:latest"),
        ("binder-", f"binder-x-0a1b2c@sha256:{'0' * 64}"),
        ("binder-", f"binder-x-0a1b2c:1@sha256:{'0' * 64}"),
        ("quay.io/binder-", "quay.io/binder-other-org/x-0a1b2c:1"),
        ("quay.io/binder-", "quay.io.evil.example/binder-x-0a1b2c:1"),
        ("quay.io/binder-", "binder-x-0a1b2c:1"),
        ("127.0.0.1:5001/", "127.0.0.1:5001/other/x-0a1b2c:1"),
    ],
)
def test_what_only_begins_like_it_is_not(spawner: ModuleType, prefix: str, image: str) -> None:
    assert not allows(spawner, image, prefix=prefix)
    assert not naming.is_image_name(prefix, image), "nor by a server of ours"


def test_a_pattern_is_matched_as_a_whole(spawner: ModuleType) -> None:
    assert allows(spawner, "test/ok:1", pattern=r"test/[a-z]+:1")
    for image in ("evil/test/ok:1", "test/ok:12", "test/ok:1\nevil"):
        assert not allows(spawner, image, pattern=r"test/[a-z]+:1")
    assert not allows(spawner, "test/ok:1"), "nothing without either"


@pytest.mark.parametrize("seconds", [0, 0.2, 1, 77, 3600, 10**6])
def test_a_server_is_told_its_idle_end_as_ours_are(spawner: ModuleType, seconds: float) -> None:
    assert list(spawner._idle(seconds)) == idle_arguments(seconds)


def test_the_program_of_a_server_is_found_as_ours_is(spawner: ModuleType) -> None:
    assert spawner._START == servers._FIRST_OF
