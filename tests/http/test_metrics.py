from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import SPEC, STREAM, asking, until

from binder_core.engine import Request
from binder_http.metrics import Metrics


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def test_what_ended_is_counted() -> None:
    metrics = Metrics()
    metrics.build_ended(ok=True, seconds=61.0, provider="gh", repo_url="https://x/1")
    metrics.build_ended(ok=False, seconds=1.0, provider="gh", repo_url="https://x/2")
    metrics.launch_ended(ok=True, seconds=3.0, retries=2, provider="gl", repo_url="https://x/1")
    page, content_type = metrics.page()
    assert content_type.startswith("text/plain")
    found = samples(page.decode())
    good, bad = labelled(status="success"), labelled(status="failure")
    assert found["binderhub_build_time_seconds_sum", good] == 61.0
    assert found["binderhub_build_time_seconds_count", bad] == 1.0
    within = labelled(status="success", le="60.0"), labelled(status="success", le="120.0")
    assert [found["binderhub_build_time_seconds_bucket", one] for one in within] == [0.0, 1.0]
    tried = labelled(status="success", retries="2")
    assert found["binderhub_launch_time_seconds_sum", tried] == 3.0
    counted = labelled(status="failure", provider="gh")
    assert found["binderhub_build_count_total", counted] == 1.0
    counted = labelled(status="success", provider="gl")
    assert found["binderhub_launch_count_total", counted] == 1.0


def test_the_repository_is_a_label_only_on_request() -> None:
    plain, by_repo = Metrics(), Metrics(repo_label=True)
    for metrics in (plain, by_repo):
        metrics.build_ended(ok=True, seconds=1.0, provider="gh", repo_url="https://x/1")
    assert b"https://x/1" not in plain.page()[0]
    labels = labelled(status="success", provider="gh", repo="https://x/1")
    assert samples(by_repo.page()[0].decode())["binderhub_build_count_total", labels] == 1.0


def test_many_retries_are_one_label() -> None:
    metrics = Metrics()
    for retries in range(100):
        metrics.launch_ended(ok=True, seconds=1, retries=retries, provider="gh", repo_url="")
    found = samples(metrics.page()[0].decode())
    tries = {dict(labels)["retries"] for name, labels in found if name.endswith("seconds_count")}
    assert tries == {"0", "1", "2", "3", "4", "5"}


def test_before_anything_happened_the_gauges_are_there() -> None:
    found = samples(Metrics().page()[0].decode())
    assert found["binderhub_inprogress_builds", ()] == 0
    assert found["binderhub_inprogress_launches", ()] == 0
    assert not [name for name, _ in found if "github" in name]


def test_what_github_still_answers() -> None:
    left: list[int | None] = [None]
    metrics = Metrics(rate_limit=lambda: left[0])
    assert b"binderhub_github_rate_limit_remaining" not in metrics.page()[0]
    left[0] = 4321
    found = samples(metrics.page()[0].decode())
    assert found["binderhub_github_rate_limit_remaining", ()] == 4321


def test_the_format_is_the_one_asked_for() -> None:
    page, content_type = Metrics().page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_two_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.build_ended(ok=True, seconds=1, provider="gh", repo_url="")
    assert b'status="success"' not in two.page()[0]


@pytest.mark.anyio
async def test_builds_and_launches_show_on_the_page() -> None:
    async with asking() as (client, _):
        await client.get(f"/build/{SPEC}", headers=STREAM)
        found = samples((await client.get("/metrics")).text)
    ended = labelled(status="success", provider="git")
    assert found["binderhub_build_count_total", ended] == 1
    assert found["binderhub_launch_count_total", ended] == 1
    assert (
        found["binderhub_launch_time_seconds_count", labelled(status="success", retries="0")] == 1
    )
    assert found["binderhub_inprogress_builds", ()] == 0
    assert found["process_resident_memory_bytes", ()] > 0


@pytest.mark.anyio
async def test_the_gauges_are_what_is_under_way() -> None:
    async with asking({"builder.fake.ends": False}) as (client, binder):

        async def gauge() -> float:
            page = (await client.get("/metrics")).text
            return samples(page)["binderhub_inprogress_builds", ()]

        provider, _, spec = SPEC.partition("/")
        watching = binder.stream(Request(provider=provider, spec=spec))
        await anext(watching)
        await until(lambda: binder.in_progress[0] == 1)
        assert await gauge() == 1
        await watching.aclose()
        assert await gauge() == 1  # it goes on without watchers
        await binder.stop_builds()
        assert await gauge() == 0
