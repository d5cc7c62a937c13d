"""Kubernetes' programs, built from Debian's source package: Debian 12 packs none but the client.

Debian 12 has the whole tree of 1.20.2 with all that it imports, so the build needs no network but
apt's. Measured on two cores: 4 min alone, 11 min where others are at work; what is built is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from engines.machine import debian_mirror
from engines.processes import locked

VERSION = "1.20.2"
PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
GO = "/usr/lib/go-1.19/bin/go"

_SUITE = "bookworm"
_ROOT = "k8s.io/kubernetes"
_MAJOR, _MINOR, _ = VERSION.split(".")
_STAMPS = {"gitVersion": f"v{VERSION}", "gitMajor": _MAJOR, "gitMinor": _MINOR}
# Two packages tell a version: that of the programs, and that of what the API server is made of.
_STAMPED = ("component-base/version", "client-go/pkg/version")
_LINKING = " ".join(
    f"-X {_ROOT}/vendor/k8s.io/{package}.{key}={value}"
    for package in _STAMPED
    for key, value in _STAMPS.items()
)
# Without symbols, which spares a third of the linking, and without the clouds.
_FLAGS = ("-trimpath", "-tags", "providerless", "-ldflags", f"-s -w {_LINKING}")
_OPENAPI = re.compile(rb"^// \+k8s:openapi-gen=", re.MULTILINE)
# These have the comment, and are no part of what the API server serves.
_NOT_SERVED = re.compile(
    r"example|sample|clientauthentication|custom_metrics|external_metrics|code-generator"
)


def programs(cache: Path) -> Path:
    """Return the folder of the programs, built if it is not there.

    Args:
        cache: Where they are kept.

    Raises:
        AssertionError: They cannot be built; with the end of what was printed.
    """
    recipe = hashlib.sha256("\n".join((*PROGRAMS, *_FLAGS)).encode()).hexdigest()[:8]
    kept = cache / f"kubernetes-{VERSION}" / recipe
    kept.parent.mkdir(parents=True, exist_ok=True)
    with locked(kept.parent / "lock"):
        if not kept.exists():
            # What a session that was killed left. What was built otherwise may be in use.
            for old in kept.parent.glob("build-*/"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=kept.parent, prefix="build-") as folder:
                _Build(Path(folder), kept.parent / "build.log").run().rename(kept)
    return kept


class _Build:
    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._tree = folder / "go" / "src" / _ROOT
        self._built = folder / "bin"
        ours = {
            "GOPATH": str(folder / "go"),
            "GOCACHE": str(folder / "cache"),
            "GO111MODULE": "off",
            "GOENV": "off",
            "CGO_ENABLED": "0",
        }
        theirs = {key: value for key, value in os.environ.items() if not key.startswith("GO")}
        self._environment = theirs | ours

    def run(self) -> Path:
        """Return the folder with the programs."""
        self._log.unlink(missing_ok=True)
        self._fetch()
        self._generate()
        self._built.mkdir()
        self._run(
            *(GO, "build", *_FLAGS, "-o", f"{self._built}/"),
            *(f"./cmd/{program}" for program in PROGRAMS),
            seconds=3600,
        )
        return self._built

    def _fetch(self) -> None:
        """Get the source: apt compares it with the hashes in Debian's signed index."""
        apt = self._folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        sources = apt / "sources.list"
        sources.write_text(f"deb-src {debian_mirror(_SUITE)} {_SUITE} main\n")
        options = [
            f"Dir::Etc::SourceList={sources}",
            "Dir::Etc::SourceParts=/dev/null",
            f"Dir::State::Lists={apt / 'lists'}",
            f"Dir::Cache={apt / 'cache'}",
            # The user that apt fetches as may not look into a home folder.
            "APT::Sandbox::User=root",
        ]
        command = ["apt-get", *(word for option in options for word in ("-o", option))]
        self._run(*command, "--error-on=any", "update", cwd=self._folder)
        self._run(*command, "source", "kubernetes", cwd=self._folder)
        (unpacked,) = self._folder.glob(f"kubernetes-*{VERSION}")
        self._tree.parent.mkdir(parents=True)
        unpacked.rename(self._tree)

    def _generate(self) -> None:
        """Write the one file that the tree lacks: what the API server tells of its types."""
        generator = self._folder / "openapi-gen"
        self._run(GO, "build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
        self._run(
            *(str(generator), "-O", "zz_generated.openapi", "-i", ",".join(self._described())),
            *("-p", f"{_ROOT}/pkg/generated/openapi", "-o", str(self._folder / "go" / "src")),
            *("-h", "hack/boilerplate/boilerplate.generatego.txt"),
            *("-r", str(self._folder / "openapi.report")),
        )

    def _described(self) -> list[str]:
        """Return the packages whose types the API server describes."""
        found = set()
        for top in ("cmd", "pkg", "plugin", "staging/src"):
            for file in (self._tree / top).rglob("*.go"):
                if _OPENAPI.search(file.read_bytes()):
                    place = file.parent.relative_to(self._tree).as_posix()
                    found.add(f"{_ROOT}/{place.replace('staging/src/', 'vendor/', 1)}")
        return sorted(package for package in found if not _NOT_SERVED.search(package))

    def _run(self, *command: str, cwd: Path | None = None, seconds: float = 600) -> None:
        environment: Mapping[str, str] = self._environment
        with self._log.open("ab") as log:
            # Other sessions are at work on this machine.
            done = subprocess.run(
                ["nice", "-n", "5", *command],
                cwd=cwd or self._tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=seconds,
                check=False,
            )
        said = self._log.read_text(errors="replace")[-5000:]
        assert done.returncode == 0, f"{' '.join(command)[:200]}\n… {said}\nAll of it: {self._log}"
