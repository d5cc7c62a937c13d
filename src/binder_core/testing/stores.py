"""The suite for stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import anyio
import pytest

from binder_core.plugin import (
    BackendUnavailable,
    BuildRecord,
    BuildStatus,
    DeploymentRecord,
    DeploymentStatus,
    Ending,
    KeyRecord,
    Store,
    TemplateRecord,
)
from binder_core.testing.plugins import PluginSuite

T = TypeVar("T")


async def gather(*calls: Callable[[], Awaitable[T]]) -> list[T]:
    """Return what calls return that are made at once."""
    results: dict[int, T] = {}

    async def call(number: int) -> None:
        results[number] = await calls[number]()

    async with anyio.create_task_group() as tasks:
        for number in range(len(calls)):
            tasks.start_soon(call, number)
    return [results[number] for number in range(len(calls))]


def a_build(number: int = 1, name: str = "a-b", **given: object) -> BuildRecord:
    """Return a build that has just been asked for."""
    made = BuildRecord(
        id=f"id{number}",
        name=name,
        repository="https://github.com/a/b",
        source="gh:a/b",
        started=1000.5 + number,
        provider="gh",
        build_name="build-a-b",
        image="binder-a-b:1",
        repo_url="https://github.com/a/b",
        ref="1",
        content_provider="Git",
    )
    return replace(made, **given)  # type: ignore[arg-type] # whatever a test gives


def a_template(name: str = "a-b", ref: str = "1") -> TemplateRecord:
    """Return a template."""
    return TemplateRecord(
        name=name,
        image=f"binder-a-b:{ref}",
        repository="https://github.com/a/b",
        source="gh:a/b",
        repo_url="https://github.com/a/b",
        ref=ref,
        registered=1003.25,
    )


def a_deployment(number: int = 1, template: str = "a-b") -> DeploymentRecord:
    """Return a deployment that has just been asked for."""
    return DeploymentRecord(
        id=f"dep{number}",
        template=template,
        image="binder-a-b:1",
        repo_url="https://github.com/a/b",
        ref="1",
        server=f"a-b-{number}",
        started=1000.0 + number,
        idle_timeout=60.0,
    )


def done(log: bytes = b"log", ended: float = 1002.0, **given: object) -> Ending:
    """Return the good end of a build."""
    made = Ending(
        status=BuildStatus.COMPLETED, ended=ended, phase="built", log=log, template=a_template()
    )
    return replace(made, **given)  # type: ignore[arg-type] # whatever a test gives


class StoreSuite(PluginSuite):
    """Holds a store to its contract.

    A store that runs on one event loop only overrides the fixture ``anyio_backend``.
    """

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        """Return a store, to be entered.

        All of one test are on the same database, which is empty when the test begins.
        """
        raise NotImplementedError

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        """Return a store that is open."""
        async with self.open_store() as opened:
            yield opened

    async def test_what_is_kept_comes_back_as_it_was(self, store: Store) -> None:
        """Whatever the text, to the last fraction of a second."""
        build = a_build(repository="https://github.com/ä/\U0001f427'; DROP TABLE builds; --")
        assert await store.add_build(build)
        assert await store.build("a-b") == build
        deployment = a_deployment()
        await store.add_deployment(deployment)
        assert await store.deployment("a-b", "dep1") == deployment
        key = KeyRecord(id="k", name="Jörg", digest=bytes(range(32)), created=5.5)
        await store.add_key(key)
        assert await store.key("k") == key
        assert await store.end_build("id1", done())
        assert await store.template("a-b") == a_template()

    async def test_what_is_not_there_is_none(self, store: Store) -> None:
        """An empty database answers."""
        assert await store.key("x") is None
        assert await store.build("x") is None
        assert await store.log("x") is None
        assert await store.template("x") is None
        assert await store.deployment("x", "y") is None
        assert not await store.keys()
        assert not await store.builds()
        assert not await store.templates()
        assert not await store.revoke_key("x", 1.0)
        assert not await store.remove_template("x")
        assert not await store.end_build("x", done())
        assert await store.template("a-b") is None, "a build that is unknown makes no template"

    async def test_everything_is_there_after_a_restart(self) -> None:
        """A store opened anew has all of it."""
        async with self.open_store() as first:
            await first.add_build(a_build())
            await first.end_build("id1", done(b"all of it"))
        async with self.open_store() as second:
            assert await second.log("a-b") == b"all of it"
            assert await second.templates() == [a_template()]

    async def test_of_one_name_one_build_is_live(self, store: Store) -> None:
        """However many are asked for at once."""
        given = [partial(store.add_build, a_build(number)) for number in range(8)]
        assert sorted(await gather(*given)) == [False] * 7 + [True]
        assert await store.add_build(a_build(9, name="other"))

    async def test_a_build_takes_the_place_of_another(self, store: Store) -> None:
        """The one before ends as failed; what comes of it later is its log alone."""
        await store.add_build(a_build(1))
        assert await store.add_build(a_build(2), replacing="id1")
        newest = await store.build("a-b")
        assert newest is not None
        assert newest.id == "id2"
        assert not await store.end_build("id1", done(b"of the first")), "it had ended"
        assert await store.template("a-b") is None
        assert await store.log("a-b", "id1") == b"of the first"
        assert await store.end_build("id2", done(b"of the second"))
        assert await store.log("a-b") == b"of the second"

    async def test_a_build_is_kept_by_its_owner_alone(self, store: Store) -> None:
        """Another server takes it over when the lease is over."""
        await store.add_build(a_build(owner="one", lease=10.0))
        going = a_build(
            status=BuildStatus.RUNNING, phase="fetching", run="r", owner="one", lease=20.0
        )
        assert await store.keep_build(going)
        assert await store.build("a-b") == going
        assert not await store.keep_build(replace(going, owner="two", phase="pushing"))
        assert await store.claim_builds("two", 15.0, 30.0) == [], "its lease is not over"
        taken = replace(going, owner="two", lease=50.0)
        assert await store.claim_builds("two", 25.0, 50.0) == [taken]
        assert not await store.keep_build(going), "another one follows it now"
        await store.end_build("id1", done())
        assert not await store.keep_build(taken), "it has ended"
        assert await store.claim_builds("three", 99.0, 100.0) == []

    async def test_of_many_who_claim_one_gets_it(self, store: Store) -> None:
        """A build is never followed by two that claimed it at once."""
        await store.add_build(a_build())
        claims = [partial(store.claim_builds, f"s{number}", 5.0, 50.0) for number in range(6)]
        assert sorted(len(claimed) for claimed in await gather(*claims)) == [0] * 5 + [1]

    async def test_the_newest_of_each_name(self, store: Store) -> None:
        """The newest one first."""
        for number, name in enumerate(["x", "y", "x", "z"]):
            await store.add_build(a_build(number, name=name))
            await store.end_build(f"id{number}", done(template=None))
        assert [build.id for build in await store.builds()] == ["id3", "id2", "id1"]

    async def test_a_template_is_that_of_the_last_build(self, store: Store) -> None:
        """Until it is removed."""
        for number in (1, 2):
            await store.add_build(a_build(number))
            await store.end_build(f"id{number}", done(template=a_template(ref=str(number))))
        assert [template.ref for template in await store.templates()] == ["2"]
        assert await store.remove_template("a-b")
        assert not await store.remove_template("a-b")

    async def test_deployments_until_they_end(self, store: Store) -> None:
        """What has ended stays so."""
        for number, template in ((1, "a"), (2, "b"), (3, "a")):
            await store.add_deployment(a_deployment(number, template))
        ready = replace(a_deployment(1, "a"), status=DeploymentStatus.READY, url="http://x/")
        await store.change_deployment(ready)
        assert await store.deployments("a") == [ready, a_deployment(3, "a")]
        assert len(await store.deployments()) == 3
        ended = replace(ready, status=DeploymentStatus.ENDED, message="gone", ended=9.0)
        await store.change_deployment(ended)
        await store.change_deployment(ready)
        assert await store.deployment("a", "dep1") == ended, "what has ended stays so"
        assert await store.deployment("b", "dep1") is None, "it is another template's"
        claimed = await store.claim_deployments("me", 5.0, 50.0)
        assert {one.id for one in claimed} == {"dep2", "dep3"}
        assert await store.claim_deployments("you", 5.0, 50.0) == []

    async def test_keys(self, store: Store) -> None:
        """A revoked one is kept, and says so."""
        one = KeyRecord(id="one", name="", digest=b"1", created=1.0)
        await store.add_key(one)
        await store.add_key(replace(one, id="two", created=2.0))
        with pytest.raises(BackendUnavailable):
            await store.add_key(one)
        assert await store.revoke_key("one", 3.0)
        assert not await store.revoke_key("one", 4.0)
        assert [(key.id, key.revoked) for key in await store.keys()] == [
            ("one", 3.0),
            ("two", None),
        ]

    async def test_what_is_old_is_forgotten_and_what_is_live_is_not(self, store: Store) -> None:
        """A template outlives the record of its build."""
        for number in (1, 2, 3):
            await store.add_build(a_build(number, name=f"n{number}"))
            await store.add_deployment(a_deployment(number))
        await store.end_build("id1", done(ended=100.0))
        await store.end_build("id2", done(ended=200.0, template=None))
        await store.change_deployment(
            replace(a_deployment(1), status=DeploymentStatus.ENDED, ended=100.0)
        )
        await store.sweep(before=150.0, keep_bytes=1000)
        assert [build.name for build in await store.builds()] == ["n3", "n2"]
        assert await store.log("n1") is None
        assert await store.log("n2") == b"log"
        assert await store.deployment("a-b", "dep1") is None
        assert len(await store.deployments()) == 2
        assert await store.template("a-b") is not None, (
            "a template outlives the record of its build"
        )

    async def test_the_oldest_logs_go_first(self, store: Store) -> None:
        """The builds themselves are kept."""
        for number in range(5):
            await store.add_build(a_build(number, name=f"n{number}"))
            await store.end_build(f"id{number}", done(bytes(100), template=None))
        await store.sweep(before=0.0, keep_bytes=250)
        kept = [number for number in range(5) if await store.log(f"n{number}") is not None]
        assert kept == [3, 4]
        assert len(await store.builds()) == 5, "the builds themselves are kept"

    async def test_several_servers_open_an_empty_database_at_once(self) -> None:
        """They make its tables once."""
        stores = [self.open_store() for _ in range(4)]
        opened = await gather(*(one.__aenter__ for one in stores))
        try:
            assert await opened[0].add_build(a_build())
            assert not await opened[3].add_build(a_build(2))
        finally:
            for one in stores:
                await one.__aexit__(None, None, None)
