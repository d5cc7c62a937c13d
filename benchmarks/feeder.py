"""Where lines come from: ``python -m benchmarks.feeder SOCKET``.

Whoever connects says which build it wants, as the path of a repository::

    <log or frames> <serial>/<lines>/<lines a second, 0: as fast as they come>[/<which>]

and gets its lines once the serial has come on standard input: as the log that the runner writes, or
as the prepared frames that our server would make of it. One write a line, as any program does that
prints lines. A serial that starts with ``open`` never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from typing import Final

from binder_core import events
from binder_core.events import Built, Event, Ready
from binder_core.journal import Told
from binder_core.ordering import Phase
from binder_core.resume import END, log_id
from binder_core.runlog import Line, Outcome, encode
from binder_http import sse

_TEXT: Final = "Collecting some-package>=1.2.3 (from -r requirements.txt)"
_AT_ONCE: Final = 64
_PREPARED: Final = 5_000

_go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


def line(n: int, now: int) -> str:
    """Return the text of line `n`, which tells its number and its time in nanoseconds."""
    return f"line {n} at {now} {_TEXT}\n"


def _prepared(form: str, run: str, n: int) -> bytes:
    """Return a line as bytes, in one of the two forms."""
    message = line(n, time.monotonic_ns())
    if form == "log":
        return encode(Line(n, message, Phase.BUILDING))
    return _frame(events.log_event(Phase.BUILDING, message), log_id(run, n))


def _frame(event: Event, event_id: str) -> bytes:
    return sse.frame(Told.of(event, event_id))


def _last(form: str, run: str, n: int) -> bytes:
    """Return what follows the last line."""
    if form == "log":
        return encode(Outcome(n, built=True))
    built = _frame(Built(message="Built image x\n", image="x"), log_id(run, n, built=True))
    return built + _frame(Ready(message="Image x is built\n", image_name="x"), END)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    form, plan = (await reader.readline()).decode().split()
    serial, lines, rate, *_ = plan.split("/")
    last, pace = int(lines), float(rate)
    # What comes as fast as it can is prepared: this process shall not be what limits.
    at_once = not pace and last <= _PREPARED
    ready = [] if not at_once else [_prepared(form, serial, n) for n in range(1, last + 1)]
    await _go[serial].wait()
    began = asyncio.get_running_loop().time()
    with contextlib.suppress(ConnectionError):
        for n in range(1, last + 1):
            if pace:
                await asyncio.sleep(began + (n - 1) / pace - asyncio.get_running_loop().time())
            writer.write(ready[n - 1] if ready else _prepared(form, serial, n))
            if pace or n % _AT_ONCE == 0:
                await writer.drain()
                await asyncio.sleep(0)
        if serial.startswith("open"):
            await reader.read()
        writer.write(_last(form, serial, last + 1))
        await writer.drain()
        writer.close()


async def _listen() -> None:
    def told() -> None:
        serial = sys.stdin.readline().strip()
        if not serial:
            sys.exit()  # whoever measured is gone
        _go[serial].set()

    asyncio.get_running_loop().add_reader(sys.stdin, told)
    server = await asyncio.start_unix_server(_serve, sys.argv[1], backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen())
