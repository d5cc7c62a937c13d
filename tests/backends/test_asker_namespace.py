"""The hostile server at a public address: nothing is allowed on purpose there.

It needs a network of its own, which root (or who may make user namespaces) can have; it ends with
the process that has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import IN_NAMESPACE, METADATA, NAMESPACE, PUBLIC

HERE = Path(__file__).parent
SET_UP = f"ip link set lo up && ip addr add {PUBLIC}/32 dev lo && ip addr add {METADATA}/32 dev lo"


def _in_namespace(*command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    script = f'{SET_UP} && exec "$@"'
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, IN_NAMESPACE: "1"},
    )


@pytest.mark.real
@pytest.mark.skipif(NAMESPACE, reason="this is inside already")
def test_in_a_namespace_of_its_own(require: Callable[..., str]) -> None:
    require("unshare", "apt-get install util-linux")
    require("ip", "apt-get install iproute2")
    allowed = _in_namespace("true", timeout=10).returncode == 0
    require("a network namespace", "run as root", there=allowed)
    tests = [str(HERE / f"test_asker{name}.py") for name in ("_hostile", "_git")]
    done = _in_namespace(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, timeout=300
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
