"""What ``make launch`` runs: a server on loopback, and the example repository launched on it.

It makes a git repository of ``examples/repository``, starts a server that may fetch from this
machine's disk, asks it for that repository over HTTP as anybody would, and keeps the notebook until
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from platformdirs import user_cache_path

from binder_http.config import load
from binder_http.server import Running, announce, serve

EXAMPLE = Path(__file__).parent / "repository"
SETTINGS = {
    "server.port": 0,
    "builder.kind": "local",
    "launcher.kind": "local",
    # Only because the repository is on this machine's disk; a server for others leaves these out.
    "builder.local.allow_directories": True,
    "asker.allow_file_urls": True,
    "providers.git.schemes": ["https", "file"],
    "server.access_log": False,
}


def make_repository(folder: Path) -> str:
    """Return the spec of a git repository with the example in it, made anew in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The same author and date make the same commit: the second launch finds the first one's image.
    always = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Example"), ("EMAIL", "e@x"), ("DATE", "2026-01-01T00:00Z"))
    }
    place = ["--git-dir", str(folder / ".git"), "--work-tree", str(EXAMPLE)]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "Example"]):
        subprocess.run(["git", *place, *command], check=True, env=os.environ | always)
    return f"git/{quote(folder.as_uri(), safe='')}/main"


async def launch(spec: str, server: Running) -> None:
    """Launch `spec` on `server` with the command line; end the server if that fails."""
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "binder_http.cli", "launch", "--server", server.url, spec),
        env=os.environ | {"BINDER_TOKEN": server.token},
    )
    failed = await client.wait() != 0
    if server.ended.done():
        return  # Ctrl-C: the client heard it, too
    if failed:
        signal.raise_signal(signal.SIGTERM)
    else:
        print("The notebook runs until Ctrl-C.", flush=True)


async def main() -> None:
    """Serve and launch until Ctrl-C."""
    tasks = []

    def started(server: Running) -> None:
        announce(server)
        tasks.append(asyncio.create_task(launch(spec, server)))

    spec = make_repository(user_cache_path("binderkit") / "example")
    await serve(load(flags=SETTINGS), started=started)
    await asyncio.gather(*tasks)


asyncio.run(main())
