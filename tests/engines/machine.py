"""What this machine is configured with: mirrors and indexes are nothing that a file here names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path


def debian_mirror(suite: str) -> str:
    """Return where apt gets the packages of a Debian release from.

    Raises:
        AssertionError: Apt is not configured for it.
    """
    listed = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for line in listed.stdout.splitlines():
        created, release, component, address = line.split()
        if (created, release, component) == ("Packages", suite, "main"):
            return address
    raise AssertionError(f"apt has no source for Debian {suite}: {listed.stdout}")


def pip_configuration(bundle: str) -> str:
    """Return a ``pip.conf`` for a container: this machine's, without its folders.

    Args:
        bundle: The file of certificates in the container.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = ["[global]", f"cert = {bundle}", "break-system-packages = true"]
    for line in listed.stdout.splitlines():
        place, _, value = line.partition("=")
        key = place.rpartition(".")[2]
        words = [word for word in str(ast.literal_eval(value)).split() if not _is_local(word)]
        if words and key in ("index-url", "extra-index-url", "trusted-host", "proxy"):
            lines.append(f"{key} = {' '.join(words)}")
    return "\n".join(lines) + "\n"


def _is_local(word: str) -> bool:
    return word.startswith("file:") or os.path.isabs(word) or Path(word).is_dir()  # noqa: PTH117
