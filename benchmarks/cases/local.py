"""The local backend: from a cached image to ``ready``, against starting the same server by hand."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.processes import free_port
from benchmarks.results import Results, median
from binder_core.events import Failed, Ready
from binder_core.providers.directory import PREFIX, Directory, spec_text
from binder_http.assembly import open_binder
from binder_http.config import load


def by_hand(env: Path, work: Path) -> float:
    """Return the seconds until a server, started with the launcher's arguments, answers."""
    port, token = free_port(), secrets.token_hex(16)
    command = [
        str(env / "bin" / "jupyter-server"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.open_browser=False",
        "--ServerApp.allow_root=True",
    ]
    given = os.environ | {
        "JUPYTER_TOKEN": token,
        "HOME": str(work),
        "JUPYTER_RUNTIME_DIR": str(work / "runtime"),
        "PATH": f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(env),
    }
    status = Request(
        f"http://127.0.0.1:{port}/api/status", headers={"authorization": f"token {token}"}
    )
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=work, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while True:
            with suppress(OSError), urlopen(status, timeout=5):
                break
            if process.poll() is not None:
                raise RuntimeError("the Jupyter server ended")
            time.sleep(0.005)
        took = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
    return took


async def run(results: Results, *, quick: bool) -> None:
    """Build a small repository once, then launch it and start its server, in turn."""
    took: list[float] = []
    hand: list[float] = []
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # both kinds of server may use all cores
    with tempfile.TemporaryDirectory() as folder:
        repo, work = Path(folder, "repo"), Path(folder, "work")
        repo.mkdir()
        work.mkdir()
        (repo / "requirements.txt").write_text("jupyter-server\nipykernel\n")
        config = load(
            env={},
            flags={
                "builder.kind": "local",
                "launcher.kind": "local",
                "builder.local.cache_dir": f"{folder}/cache",
                "launcher.local.cache_dir": f"{folder}/cache",
                "launcher.local.state_dir": f"{folder}/state",
                "builder.local.allow_directories": True,
                "builder.local.jupyter_packages": ["jupyter-server", "ipykernel"],
                "server.state_dir": folder,
            },
        )
        spec = spec_text(str(repo), "0" * 64)
        async with open_binder(config, providers={PREFIX: Directory()}) as binder:
            for turn in range(3 if quick else 7):
                began = time.perf_counter()
                async for event in binder.launch(spec):
                    if isinstance(event, Failed):
                        raise RuntimeError(event.message)  # noqa: TRY004 - no matter of types
                    if isinstance(event, Ready):
                        seconds = time.perf_counter() - began
                (env,) = Path(folder, "cache", "images").glob("*/*/env")
                started = await asyncio.to_thread(by_hand, env, work)
                if turn:  # the first one built
                    took.append(seconds)
                    hand.append(started)
    results.add(
        "local",
        "cached image to ready, to the same server by hand",
        median(took) / median(hand),
        1.05,
        note=f"{median(took):.3g} s to {median(hand):.3g} s",
    )
