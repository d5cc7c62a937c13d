from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest
from binderkit_copy_builder import CopyBuilder, CopySettings

from binder_core.engine import discovery
from binder_core.plugin import BackendUnavailable, Builder, BuildRequest
from binder_core.testing import BuilderSuite

# A scan that waits for a file named "open" in the folder that it is told.
WAIT = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"


def git(*arguments: str, at: Path) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    done = subprocess.run(
        ["git", *arguments], cwd=at, env=os.environ | who, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A repository's URL and its commit."""
    folder = tmp_path_factory.mktemp("repository")
    git("init", "--quiet", at=folder)
    (folder / "index.ipynb").write_text("{}")
    git("add", ".", at=folder)
    git("commit", "--quiet", "-m", "one", at=folder)
    return folder.as_uri(), git("rev-parse", "HEAD", at=folder)


class CopySuite(BuilderSuite):
    """What the suite needs to know; the tests come with it."""

    limit = 20.0

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, repository: tuple[str, str]) -> None:
        self.tmp_path = tmp_path
        self.repo_url, self.ref = repository
        self.count = itertools.count()
        self.slow = False

    def make_builder(self) -> Builder:
        # A slow build waits for its scan to find the gate open.
        scan = (sys.executable, "-c", WAIT, str(self.tmp_path / "open")) if self.slow else ()
        settings = CopySettings(folder=str(self.tmp_path / "kept"), protocols=("file",), scan=scan)
        return CopyBuilder(settings)

    def request_that_builds(self) -> BuildRequest:
        n = next(self.count)
        return BuildRequest(f"build-{n}", f"image-{n}:{self.ref}", self.repo_url, self.ref)

    def request_that_fails(self) -> BuildRequest:
        n = next(self.count)
        return BuildRequest(f"build-{n}", f"image-{n}:0", self.repo_url, "0" * 40)

    def slow_request(self) -> BuildRequest:
        self.slow = True
        return self.request_that_builds()

    async def release(self) -> None:
        (self.tmp_path / "open").touch()

    async def image_is_there(self, image: str) -> bool | None:
        digest = hashlib.sha256(image.encode()).hexdigest()
        return (self.tmp_path / "kept" / "images" / f"{digest}.tar").exists()

    async def runs_started(self, name: str) -> int | None:
        return len(list((self.tmp_path / "kept" / "builds" / name).glob("*.log")))


class TestCopyBuilder(CopySuite):
    @pytest.mark.anyio
    async def test_an_image_holds_the_files(self) -> None:
        request = self.request_that_builds()
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_built(watch)
        (image,) = (self.tmp_path / "kept" / "images").iterdir()
        with tarfile.open(image) as tarball:
            assert tarball.getnames() == ["index.ipynb"]
        build = self.tmp_path / "kept" / "builds" / request.name
        left = {path.name for path in build.iterdir()}
        assert left == {"gate", "lock", "current.json", f"{watch.report.run_id}.log"}

    @pytest.mark.anyio
    async def test_a_run_that_was_killed_is_a_failure_that_all_are_told(self) -> None:
        request = self.slow_request()
        build = self.tmp_path / "kept" / "builds" / request.name
        async with self.make_builder() as builder, self.tasks() as tasks:
            watch = self.start(tasks, builder, request)
            await self.until_line(watch)
            current = msgspec.json.decode((build / "current.json").read_bytes())
            os.killpg(current["pid"], signal.SIGKILL)
            await self.end(watch)
            self.expect_failed(watch)
            again = await self.watch(builder, replace(request, follow=watch.report.run_id))
        self.expect_failed(again)
        assert (again.report.story, str(again.failure)) == (watch.report.story, str(watch.failure))
        await self.expect_image(request, there=False)

    @pytest.mark.anyio
    async def test_another_process_finds_the_run(self) -> None:
        request = self.slow_request()
        other = f"""
import anyio
from binder_core.engine import discovery
from binder_core.plugin import BuildRequest
from binder_core.testing import StrictReport
from binderkit_copy_builder import CopyBuilder, CopySettings

async def main():
    report = StrictReport()
    async with CopyBuilder(CopySettings(folder={str(self.tmp_path / "kept")!r})) as builder:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(builder.build, {request!r}, report)
            await report.until(lines=1)
            tasks.cancel_scope.cancel()
    print(report.run_id)

anyio.run(main)
"""
        async with self.make_builder() as builder, self.tasks() as tasks:
            watch = self.start(tasks, builder, request)
            await self.until_line(watch)
            said = await anyio.run_process([sys.executable, "-c", other])
            await self.release()
            await self.end(watch)
        self.expect_built(watch)
        assert said.stdout.decode().strip() == watch.report.run_id

    @pytest.mark.anyio
    async def test_a_scan_that_says_no_fails_the_build(self) -> None:
        scan = (sys.executable, "-c", "print('a virus'); raise SystemExit(3)")
        settings = CopySettings(folder=str(self.tmp_path / "kept"), protocols=("file",), scan=scan)
        async with CopyBuilder(settings) as builder:
            watch = await self.watch(builder, self.request_that_builds())
        self.expect_failed(watch)
        assert "exit status 3" in str(watch.failure)
        assert "a virus\n" in [line.message for line in watch.report.lines.values()]

    @pytest.mark.anyio
    async def test_credentials_stay_out_of_the_log(self) -> None:
        request = self.request_that_builds()
        request = replace(request, repo_url="https://u:s3cret@127.0.0.1:1/r")
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        self.expect_failed(watch)
        assert "s3cret" not in str(watch.report.story)
        assert "s3cret" not in str(watch.failure)

    @pytest.mark.anyio
    async def test_what_is_no_git_repository_is_refused(self) -> None:
        request = replace(self.request_that_builds(), content_provider="Zenodo")
        async with self.make_builder() as builder:
            watch = await self.watch(builder, request)
        assert "Zenodo" in str(watch.failure)
        await self.expect_runs(request, 0)


@pytest.mark.anyio
async def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BackendUnavailable, match="git"):
        async with CopyBuilder(CopySettings(folder=str(tmp_path))):
            pass


@pytest.mark.anyio
async def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable, match="folder"):
        async with CopyBuilder(CopySettings(folder=str(tmp_path / "file"))):
            pass


def test_binderkit_finds_it() -> None:
    assert "copy" in discovery.names(discovery.BUILDERS)
    assert discovery.find(discovery.BUILDERS, "copy") is CopyBuilder
