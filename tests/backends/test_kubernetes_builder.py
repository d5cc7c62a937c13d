"""The Kubernetes builder where the cluster, or what is asked of it, is not as it should be."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from watched_builds import GUARD, absent, building, eventually, off

from binder_backends.kubernetes import KubernetesBuilder, manifest
from binder_backends.kubernetes.builder import NEEDED
from binder_core.plugin import BackendUnavailable, BuildRun
from binder_core.testing import StrictReport
from engines.kubernetes_builds import Builds, GivenPlace, Place

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.usefixtures("handshakes")]

HEARD_WITHIN = 60.0
"""Seconds within which a watch tells what there is, also one whose connection was cut for as long:
TCP tries again ever more rarely. One that is dead is renewed after four minutes."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # kubernetes-asyncio knows no other


# -- The API server is away ----------------------------------------------------------------------


async def expect_watch(place: Place, builds: KubernetesBuilder) -> None:
    """Fail unless a builder hears of a build that another one began: only its watch tells it."""
    request = place.request("slow")
    async with building(place.settings()) as other:
        watching = other(request)
        await watching.until_line()
        with anyio.fail_after(HEARD_WITHIN):
            while request.name not in {run.name for run in await builds.under_way()}:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        await off(place.release, request)
        assert await watching.end() == ""


async def test_the_api_server_restarts_in_mid_build(kubernetes_builds: Place) -> None:
    place = kubernetes_builds
    request = place.request("pours")
    async with building(place.settings()) as start:
        watching = start(request)
        await watching.until_line(50)
        await off(place.cluster.restart_api_server)
        assert await watching.end() == ""
        await expect_watch(place, start.builder)
    numbers = [int(line.split()[1]) for line in watching.text if line.startswith("line ")]
    assert numbers == list(range(1, 2001)), "each line once and in order"
    assert await off(place.pushed, request.image)


async def test_a_server_that_is_cut_off_from_the_cluster_goes_on(
    kubernetes_builds: Place,
) -> None:
    place = kubernetes_builds
    request = place.request("pours")
    async with building(place.settings()) as start:
        watching = start(request)
        await watching.until_line(50)

        def cut() -> int:
            with place.cluster.cut():
                time.sleep(60)  # the length of the outage is what is asked for
                return len(watching.report.lines)

        assert await off(cut) < 2000, "nothing comes through"
        assert await watching.end() == ""
        await expect_watch(place, start.builder)
    numbers = [int(line.split()[1]) for line in watching.text if line.startswith("line ")]
    assert numbers == list(range(1, 2001))
    assert await off(place.runs, request.name) == 1


async def test_a_watch_that_has_expired_is_begun_anew(kubernetes_builds: Place) -> None:
    place = kubernetes_builds
    request = place.request("slow")
    async with building(place.settings()) as start:
        watching = start(request)
        await watching.until_line()
        # Something else happens, so that the version that is watched from is an old one.
        for number in range(20):
            await off(place.kubectl, "create", "configmap", f"old-{number}")
        await off(place.cluster.compact_etcd)
        await off(place.release, request)
        assert await watching.end() == ""
        await expect_watch(place, start.builder)


async def test_an_outage_that_lasts_is_said_and_is_no_failure(kubernetes_builds: Place) -> None:
    place = kubernetes_builds
    request = place.request("slow")
    async with building(place.settings(outage=1.0)) as start:
        watching = start(request)
        await watching.until_line()
        with pytest.raises(BackendUnavailable) as fault:
            await off(place.cluster.kill, "kube-apiserver")
            try:
                with anyio.fail_after(GUARD):
                    await start.builder.build(request, StrictReport())
            finally:
                await off(place.cluster.run, "kube-apiserver")
    assert "API server" in fault.value.message
    async with building(place.settings()) as start:
        again = start(request)
        await again.until_line()
        await off(place.release, request)
        assert await again.end() == ""
    assert again.report.run_id == watching.report.run_id
    assert await off(place.runs, request.name) == 1


# -- The pod ends otherwise ----------------------------------------------------------------------


async def test_a_pod_that_somebody_deletes(given_builds: Builds) -> None:
    place = given_builds
    request = place.request("slow")
    async with building(place.settings()) as start:
        watching = start(request)
        await watching.until_line()
        await off(place.kubectl, "delete", "pod", request.name)
        assert "pod was deleted" in await watching.end()
        second = start(request)
        await second.until_line()
        assert second.report.run_id != watching.report.run_id
        await off(place.release, request)
        assert await second.end() == ""


async def test_too_much_memory_is_said(given_builds: Builds) -> None:
    place = given_builds
    eats = ["sh", "-c", "exec python3 -c 'x = bytearray(10**9)'", "script"]
    async with building(place.settings(repo2docker=eats, memory_limit="100M")) as start:
        assert "memory" in await start(place.request()).end()


async def test_a_build_that_takes_too_long_says_so(given_builds: Builds) -> None:
    place = given_builds
    async with building(place.settings(build_timeout=2.0)) as start:
        assert "longer than the 2 s" in await start(place.request("slow")).end()


async def test_a_runner_that_hangs_is_ended_by_the_cluster(
    given_builds: Builds, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = given_builds
    monkeypatch.setattr(manifest, "_TIME_TO_TELL", 0.0)
    # Without the runner there is none that sees to the time.
    async with building(place.settings(build_timeout=3.0, runner=False)) as start:
        assert "and was ended by the cluster" in await start(place.request("slow")).end()


async def test_a_long_line_is_one(given_builds: Builds) -> None:
    place = given_builds
    async with building(place.settings()) as start:
        watching = start(place.request("long"))
        assert await watching.end() == ""
    # Engines keep pieces of 16 KiB.
    [line] = [line for line in watching.text if "xxx" in line]
    assert "x" * 16_000 in line


# -- It cannot begin -----------------------------------------------------------------------------


async def test_an_image_that_cannot_be_pulled(given_builds: Builds) -> None:
    place = given_builds
    request = place.request()
    absent = f"{place.registry_address}/nobody/has-this:1"
    async with building(place.settings(builder_image=absent, pending_timeout=8.0)) as start:
        watching = start(request)
        await watching.until_waiting("cannot be pulled")
        failure = await watching.end()
        assert "8 s" in failure
        assert "cannot be pulled" in failure
        followed = start(replace(request, follow=watching.report.run_id))
        assert await followed.end() == failure, "all servers tell the same"


async def test_no_node_can_take_it(given_builds: Builds) -> None:
    place = given_builds
    request = place.request()
    async with building(
        place.settings(node_selector={"nobody": "has-this"}, pending_timeout=5.0)
    ) as start:
        watching = start(request)
        await watching.until_waiting("No node can take")
        failure = await watching.end()
    assert "No node can take the build now" in failure
    async with building(place.settings()) as start:
        assert await start(request).end() == "", "the name is free again"


async def test_a_quota_of_the_namespace(given_place: Place | GivenPlace) -> None:
    with given_place.cluster.namespace() as name:
        place = replace(given_place, namespace=name)
        await off(place.kubectl, "create", "quota", "few", "--hard=pods=1")
        holder, waits = place.request("slow"), place.request()
        async with building(place.settings()) as start:
            first = start(holder)
            await first.until_line()
            second = start(waits)
            await second.until_waiting("quota")
            await off(place.release, holder)
            assert await first.end() == ""
            assert await second.end() == "", "it begins when there is room"
        third, fourth = place.request("slow"), place.request()
        async with (
            building(place.settings()) as start,
            building(place.settings(pending_timeout=3.0)) as impatient,
        ):
            await start(third).until_line()
            assert "quota" in await impatient(fourth).end()


async def test_a_quota_of_secrets(given_place: Place | GivenPlace) -> None:
    with given_place.cluster.namespace() as name:
        place = replace(given_place, namespace=name)
        await off(place.kubectl, "create", "quota", "few", "--hard=count/secrets=0")
        request = place.request()
        async with building(place.settings()) as start:
            watching = start(request)
            await watching.until_waiting("quota")
            assert await off(place.pods) == [], "none that could never start"
            await off(place.kubectl, "delete", "quota", "few")
            assert await watching.end() == ""


async def test_quotas_hold_for_builds_that_come_in_one_moment(given_builds: Builds) -> None:
    place = given_builds
    requests = [place.request(url="https://example.org/same") for _ in range(4)]
    async with building(place.settings(max_builds_per_repo=1)) as start:
        watching = [start(request) for request in requests]
        most = 0
        while not all(one.ended for one in watching):
            runs = await start.builder.under_way()
            most = max(most, len([run for run in runs if run.repo_url.endswith("/same")]))
            await anyio.sleep(0.05)
        assert [await one.end() for one in watching] == [""] * 4
    assert most == 1


async def test_builds_at_once_are_counted_from_the_cluster(given_builds: Builds) -> None:
    place = given_builds
    slow, waits = place.request("slow"), place.request()
    other = place.request(url="https://example.org/another")
    async with (
        building(place.settings(max_builds_per_repo=1)) as one,
        building(place.settings(max_builds_per_repo=1)) as two,
    ):
        first = one(slow)
        await first.until_line()
        second = two(replace(waits, repo_url=slow.repo_url))
        await second.until_waiting("builds of this repository are under way")
        assert await two(other).end() == "", "of another repository"
        await off(place.release, slow)
        assert await first.end() == ""
        await second.until_line()
        await off(place.release, waits)
        assert await second.end() == ""


# -- Rights, secrets and housekeeping ------------------------------------------------------------


async def test_a_server_that_may_not_says_what_is_missing(
    kubernetes_builds: Place, tmp_path: Path
) -> None:
    place = kubernetes_builds
    await off(place.kubectl, "create", "serviceaccount", "nobody")
    kubeconfig = await off(place.kubeconfig_of, "nobody", tmp_path)
    with pytest.raises(BackendUnavailable) as refused:
        async with KubernetesBuilder(place.settings(kubeconfig=kubeconfig)):
            pass
    for verb, resource in NEEDED:
        assert f"{verb} {resource}" in refused.value.message


async def test_no_cluster(kubernetes_builds: Place, tmp_path: Path) -> None:
    place = kubernetes_builds
    with pytest.raises(BackendUnavailable, match="kubeconfig"):
        async with KubernetesBuilder(place.settings(kubeconfig=str(tmp_path / "none"))):
            pass


async def test_the_secret_goes_with_the_pod(given_builds: Builds) -> None:
    place = given_builds
    request = place.request("slow")
    password = "hunter2-hunter2"
    credentials = {"git.example.org": {"user": "me", "password": password}}
    async with building(place.settings(git_credentials=credentials)) as start:
        watching = start(request)
        await watching.until_line()
        told = await off(place.kubectl, "get", "pod", request.name, "--output=json")
        assert password not in told
        secret = (await off(place.pod, request.name))["metadata"]["annotations"][
            "io.binderkit/secret"
        ]
        await off(place.release, request)
        assert await watching.end() == ""
    assert not any(password in line for line in watching.text)
    await off(place.kubectl, "delete", "pod", request.name)
    get = partial(off, place.kubectl, "get", "secret", secret, "--ignore-not-found")
    await eventually(partial(absent, get))


async def test_a_build_makes_its_secret_once(kubernetes_place: Place) -> None:
    with kubernetes_place.cluster.namespace() as name:
        place = replace(kubernetes_place, namespace=name)
        async with building(place.settings()) as start:
            assert await start(place.request()).end() == ""
        asked = [
            f"{record['verb']} {record['objectRef']['resource']}"
            for record in await off(place.cluster.requests, "OpenAPI-Generator")
            if record.get("objectRef", {}).get("namespace") == name
        ]
    assert asked.count("create pods") == asked.count("create secrets") == 1, asked


async def test_what_ended_long_ago_is_removed_whoever_started_it(
    given_place: Place | GivenPlace,
) -> None:
    with given_place.cluster.namespace() as name:
        place = replace(given_place, namespace=name)
        request, running = place.request(), place.request("slow")
        async with building(place.settings()) as start:
            assert await start(request).end() == ""
            await start(running).until_line()
        assert await off(place.pod, request.name)
        async with KubernetesBuilder(place.settings(keep_builds_for=0.0)):
            await eventually(partial(absent, partial(off, place.pod, request.name)))
            assert await off(place.pod, running.name), "a build under way stays"
            runs = await off(place.runs, running.name)
        assert runs == 1


async def test_runs_under_way_are_listed_by_any_server(given_builds: Builds) -> None:
    place = given_builds
    request = place.request("slow")
    async with building(place.settings()) as one, KubernetesBuilder(place.settings()) as two:
        watching = one(request)
        await watching.until_line()

        async def listed() -> list[BuildRun]:
            return [run for run in await two.under_way() if run.name == request.name]

        [run] = await eventually(listed)
        assert (run.run_id, run.image) == (watching.report.run_id, request.image)
        assert (run.repo_url, run.ref) == (request.repo_url, request.ref)
        await two.stop(request, "Enough.")
        assert await watching.end() == "Enough."
        assert request.name not in {run.name for run in await two.under_way()}
