"""The image of hubs on Kubernetes, made from ``deploy/jupyterhub/Dockerfile``.

Measured on two cores, from nothing: 90 s; below a second from what is kept.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from engines import images
from engines.docker import DockerEngine

HUB_BASE = "hub-base:test"
HUB = "binderkit-hub:test"

_ROOT = Path(__file__).parents[2]
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# The last npm that runs on Debian 12's Node.js. Debian's own brings hundreds of packages.
_NPM = "npm@10"
_BASE = f"""\
FROM {images.DEBIAN_PYTHON}
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends nodejs \\
    && rm -rf /var/lib/apt/lists/*
ADD npm.tgz /usr/local/lib/
COPY npmrc /usr/local/etc/npmrc
RUN ln -s ../lib/package/bin/npm-cli.js /usr/local/bin/npm && npm --version
"""


def hub(engine: DockerEngine) -> str:
    """See to it that the engine, which has `images.DEBIAN_PYTHON` and buildx, has `HUB`."""
    if engine.inspect(HUB_BASE) is None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "Dockerfile").write_text(_BASE)
            packed = _npm("pack", "--silent", "--pack-destination", name, _NPM)
            (folder / packed).rename(folder / "npm.tgz")
            registry = _npm("config", "get", "registry")
            (folder / "npmrc").write_text(f"registry={registry}\ncafile={_BUNDLE}\n")
            images.build(engine, HUB_BASE, folder)
    # With buildx: the Dockerfile has an ignore file of its own, which the old builder overlooks.
    engine.docker(
        *("buildx", "build", "--quiet", "--tag", HUB, "--build-arg", f"BASE={HUB_BASE}"),
        *("--file", str(_ROOT / "deploy/jupyterhub/Dockerfile"), str(_ROOT)),
        timeout=900,
    )
    return HUB


def _npm(*arguments: str) -> str:
    done = subprocess.run(
        ["npm", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout.strip()
