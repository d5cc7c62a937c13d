"""A pod's log, where streams break, stall, or belong to somebody else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import anyio
import pytest

from binder_backends.kubernetes import logs
from binder_backends.kubernetes.cluster import Cluster, NotYet, Outage
from binder_backends.kubernetes.logs import PodLog
from binder_backends.kubernetes.pods import Pod
from binder_backends.kubernetes.watching import Pods
from binder_core.plugin import Line, Outcome, encode_log

pytestmark = pytest.mark.anyio

RUNNING = Pod(name="a-build", uid="u-1", created=0.0, phase="Running", started=True)
ENDED = replace(RUNNING, phase="Succeeded", exit_code=0)

Step = bytes | Exception | None
"""A piece, a fault, or None: nothing comes any more."""


def line(n: int) -> bytes:
    return encode_log(Line(n, f"line {n}\n"))


BUILT = encode_log(Outcome(4, built=True))
WHOLE = [line(1), line(2), line(3), BUILT]


@dataclass
class Played:
    """A cluster with one log, and what is known of its pod."""

    streams: list[list[Step]]
    """What comes each time the log is followed; the last one from then on."""
    whole: list[Step] = field(default_factory=list)
    """What comes where it is read without following."""
    last: list[Step] = field(default_factory=list)
    """What comes where its last line is asked for."""
    pod: Pod = RUNNING
    outage: float = 300.0
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def log(
        self, name: str, *, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[Callable[[], Awaitable[bytes]]]:
        assert name == self.pod.name
        self.asked.append("last" if tail else "follow" if follow else "whole")
        steps = self.last if tail else self.whole
        if follow:
            steps = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        coming = list(steps)
        if steps and isinstance(steps[0], Exception):
            raise steps[0]

        async def read() -> bytes:
            if coming and coming[0] is None:
                await anyio.sleep_forever()
            match coming.pop(0) if coming else b"":
                case Exception() as fault:
                    raise fault
                case bytes() as piece:
                    return piece
            raise AssertionError

        yield read

    def now(self, pod: Pod) -> Pod:
        return self.pod if pod.uid == self.pod.uid else replace(pod, gone=True)

    async def look(self, pod: Pod) -> Pod:
        return self.now(pod)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_DELAY", "_LONGEST_DELAY", "_BREATH", "_SILENT"):
        monkeypatch.setattr(logs, name, 0.001)


async def read(played: Played) -> tuple[list[str], Outcome | None]:
    """Return what is told, each number once as a report takes it, and the outcome."""
    told: dict[int, str] = {}

    def tell(entry: Line) -> None:
        told.setdefault(entry.n, entry.message)

    log = PodLog(cast("Cluster", played), cast("Pods", cast("Any", played)), RUNNING, tell)
    with anyio.fail_after(30):
        outcome = await log.outcome()
    return list(told.values()), outcome


LINES = ["line 1\n", "line 2\n", "line 3\n"]


async def test_a_log_is_told_to_its_outcome() -> None:
    told, outcome = await read(Played([[b"".join(WHOLE)[:37], b"".join(WHOLE)[37:]]]))
    assert told == LINES
    assert outcome == Outcome(4, built=True)


async def test_a_stream_that_breaks_is_read_again_from_its_first_line() -> None:
    broken = Outage("The API server is restarted.")
    streams: list[list[Step]] = [[line(1), line(2), broken], [broken], [line(1)], [*WHOLE]]
    played = Played(streams)
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None
    assert played.asked == ["follow"] * 4


async def test_a_stream_that_stalls_after_the_end_is_not_waited_for() -> None:
    played = Played([[line(1), None]], whole=[*WHOLE], pod=ENDED)
    # The pod ends while its log is followed.
    played.pod = RUNNING
    original = played.log

    @asynccontextmanager
    async def log(name: str, **options: Any) -> AsyncGenerator[Callable[[], Awaitable[bytes]]]:
        async with original(name, **options) as opened:
            played.pod = ENDED
            yield opened

    played.log = log  # type: ignore[method-assign]
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None
    assert played.asked == ["follow", "whole"]


async def test_a_stream_that_stalls_in_mid_build_is_found_out() -> None:
    played = Played([[line(1), None], [*WHOLE]], last=[line(3)])
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None
    assert "last" in played.asked


def stock(text: str) -> bytes:
    """Return a line of a repo2docker's own, which has no number."""
    return f'{{"message": "{text}\\n", "phase": "building"}}\n'.encode()


async def test_a_stream_without_numbers_that_stalls_is_found_out() -> None:
    whole = [stock(f"line {n}") for n in (1, 2, 3)]
    played = Played([[*whole[:2], None], [*whole, BUILT]], last=[whole[2]])
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None


async def test_a_stream_that_stalls_before_the_outcome_is_found_out() -> None:
    played = Played([[*WHOLE[:3], None], [*WHOLE]], last=[BUILT])
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None


async def test_a_stream_that_is_ended_within_a_line_tells_no_half_of_it() -> None:
    played = Played([[line(1), line(2)[:14]], [*WHOLE]])
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None


async def test_a_log_that_ended_within_a_line_is_told_to_its_end() -> None:
    told, outcome = await read(Played([[b""]], whole=[line(1), b"Killed"], pod=ENDED))
    assert told == ["line 1\n", "Killed\n"]
    assert outcome is None


@pytest.mark.parametrize("silent", [[line(1)], [stock("line 1")]], ids=["numbers", "none"])
async def test_a_build_that_is_silent_is_left_alone(silent: list[Step]) -> None:
    played = Played([[*silent, None]], last=silent)
    told: list[int] = []
    log = PodLog(
        cast("Cluster", played),
        cast("Pods", cast("Any", played)),
        RUNNING,
        lambda entry: told.append(entry.n),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.outcome)
        with anyio.fail_after(30):
            while played.asked.count("last") < 3:  # noqa: ASYNC110 - it looks by the clock
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert played.asked.count("follow") == 1
    assert told == [1]


async def test_lines_that_were_rotated_away_are_said_to_be() -> None:
    told, _ = await read(Played([[line(7), line(8), BUILT]]))
    assert "first 6 lines" in told[0]
    assert told[1:] == ["line 7\n", "line 8\n"]


async def test_lines_that_were_rotated_away_between_two_reads_are_said_to_be() -> None:
    broken = Outage("The connection broke.")
    played = Played([[line(1), line(2), broken], [line(7), line(8), BUILT]])
    told, _ = await read(played)
    assert told[:2] == LINES[:2]
    assert "away 4 lines" in told[2]
    assert told[3:] == ["line 7\n", "line 8\n"]


async def test_the_log_of_another_pod_of_that_name_is_not_told() -> None:
    played = Played([[*WHOLE]])
    played.pod = replace(RUNNING, uid="u-2")
    assert await read(played) == ([], None)


async def test_a_pod_whose_node_is_lost_is_given_up() -> None:
    away = Outage("The node does not answer.")
    lost = replace(RUNNING, gone_by=1.0, reason="NodeLost")
    assert await read(Played([[away]], pod=lost)) == ([], None)


async def test_the_log_of_a_pod_that_ended_waits_for_the_api_server() -> None:
    played = Played([[b""]], pod=ENDED)
    away: list[Step] = [Outage("The API server is away.")]
    wholes = [away] * 50 + [WHOLE]
    original = played.log

    @asynccontextmanager
    async def log(name: str, **options: Any) -> AsyncGenerator[Callable[[], Awaitable[bytes]]]:
        played.whole = [*wholes.pop(0)]
        async with original(name, **options) as opened:
            yield opened

    played.log = log  # type: ignore[method-assign]
    told, outcome = await read(played)
    assert told == LINES
    assert outcome is not None


async def test_the_log_of_a_pod_that_ended_is_out_of_reach_for_as_long_as_an_outage_may() -> None:
    played = Played([[b""]], whole=[Outage("It is away.")], pod=ENDED, outage=0.05)
    with pytest.raises(Outage):
        await read(played)


async def test_a_log_without_an_outcome_is_not_read_for_ever() -> None:
    # The node has said that the pod ends, and not yet that its container has.
    ending = replace(RUNNING, phase="Failed", reason="DeadlineExceeded")
    assert await read(Played([[line(1)]], pod=ending)) == (["line 1\n"], None)


async def test_a_pod_that_never_had_a_log_has_none() -> None:
    assert await read(Played([[b""]], whole=[NotYet("waiting to start")], pod=ENDED)) == ([], None)


async def test_an_outage_that_lasts_is_said() -> None:
    played = Played([[Outage("It is away.")]], outage=0.0)
    with pytest.raises(Outage):
        await read(played)
