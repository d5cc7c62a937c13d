"""Base images, made here: nothing can be pulled where the tests run.

Measured on two cores, from nothing: `debian-python:test` 60 s, `jupyter-base:test` 30 s; from what
is kept: below a second. Where the cores are busy, twice as long.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import shutil
import ssl
import subprocess
import tarfile
import tempfile
from pathlib import Path

from engines.docker import DockerEngine
from engines.machine import debian_mirror, pip_configuration
from engines.processes import locked

BUSYBOX = "busybox:test"
DEBIAN_PYTHON = "debian-python:test"
JUPYTER_BASE = "jupyter-base:test"

_SUITE = "bookworm"
_PACKAGES = "python3,python3-pip,python3-venv,git,ca-certificates"
_CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_RECIPE = "io.binderkit.tests.recipe"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNWANTED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")
_JUPYTER = f"""\
FROM {DEBIAN_PYTHON}
RUN pip install --no-cache-dir jupyter-server jupyterhub ipykernel
"""


def busybox(engine: DockerEngine) -> str:
    """See to it that the engine has `BUSYBOX`: a shell and its friends, 2 MB."""
    program = shutil.which("busybox")
    assert program is not None
    content = Path(program).read_bytes()
    recipe = hashlib.sha256(content).hexdigest()
    if not _is_current(engine, BUSYBOX, recipe):
        names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                archive.addfile(entry)
            _add(archive, "bin/busybox", content, mode=0o755)
            _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
            for name in set(names.stdout.split()) - {"busybox"}:
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        _import(engine, BUSYBOX, buffer.getvalue(), recipe)
    return BUSYBOX


def debian_python(engine: DockerEngine, cache: Path) -> str:
    """See to it that the engine has `DEBIAN_PYTHON`: Debian, Python with pip and venv, and git.

    Args:
        engine: The engine.
        cache: Where the file system is kept, for other engines and sessions.
    """
    bundle, pip = _machine_bundle(), pip_configuration(f"/{_CA_BUNDLE}").encode()
    given = (_SUITE, _PACKAGES, debian_mirror(_SUITE), *_UNWANTED, inspect.getsource(_bootstrap))
    recipe = hashlib.sha256("\n".join(given).encode() + bundle + pip).hexdigest()
    if not _is_current(engine, DEBIAN_PYTHON, recipe):
        with locked(cache / "debian-python.lock"):
            kept = cache / f"debian-python-{recipe[:16]}.tar"
            if not kept.exists():
                for old in cache.glob("debian-python-*.tar"):
                    old.unlink()
                _bootstrap(kept, bundle, pip)
        _import(engine, DEBIAN_PYTHON, kept, recipe)
    return DEBIAN_PYTHON


def jupyter_base(engine: DockerEngine) -> str:
    """See to it that the engine has `JUPYTER_BASE`: that, with Jupyter's servers and a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(_JUPYTER)
        return build(engine, JUPYTER_BASE, Path(folder))


def build(engine: DockerEngine, image: str, folder: Path, *options: str) -> str:
    """Build an image from a folder with a Dockerfile, with the engine's first builder."""
    engine.docker(
        *("build", "--quiet", "--tag", image, *options, str(folder)),
        timeout=900,
        environment={"DOCKER_BUILDKIT": "0"},
    )
    return image


def _bootstrap(target: Path, bundle: bytes, pip: bytes) -> None:
    for left in target.parent.glob("debian-python-*.dir"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix="debian-python-", suffix=".dir"
    ) as name:
        root = Path(name) / "root"
        done = subprocess.run(
            [
                # Its mounts end with it.
                *(
                    "unshare",
                    "--mount",
                    "debootstrap",
                    "--variant=minbase",
                    f"--include={_PACKAGES}",
                ),
                *(_SUITE, str(root), debian_mirror(_SUITE)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-5000:]
        for unwanted in _UNWANTED:
            shutil.rmtree(root / unwanted, ignore_errors=True)
        for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
            (root / folder).mkdir(parents=True)
        (root / _CA_BUNDLE).write_bytes(bundle)
        (root / "etc/pip.conf").write_bytes(pip)
        # Not before it is whole: a session that is killed leaves half a file.
        part = Path(name) / "part"
        with tarfile.open(part, "w") as archive:
            archive.add(root, ".", filter=_without_devices)
        part.rename(target)


def _without_devices(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    # The engine makes its own.
    return None if entry.isdev() or entry.name.startswith(("./proc/", "./sys/")) else entry


def _machine_bundle() -> bytes:
    """Return the certificates that this machine trusts: its network may have one of its own."""
    paths = ssl.get_default_verify_paths()
    found = paths.cafile or f"/{_CA_BUNDLE}"
    return Path(found).read_bytes()


def _is_current(engine: DockerEngine, image: str, recipe: str) -> bool:
    known = engine.docker(
        *("images", "--quiet", "--filter", f"label={_RECIPE}={recipe}", image)
    ).strip()
    return bool(known)


def _import(engine: DockerEngine, image: str, content: bytes | Path, recipe: str) -> None:
    changes = (f"LABEL {_RECIPE}={recipe}", f"ENV PATH={_PATH}", 'CMD ["sh"]')
    options = [word for change in changes for word in ("--change", change)]
    if isinstance(content, Path):
        engine.docker("import", *options, str(content), image, timeout=300)
    else:
        engine.docker("import", *options, "-", image, given=content)


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
