"""What the documentation of plug-ins and of the fake shows is run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from binder_backends.fake import BuilderSettings, LauncherSettings

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


def test_the_plug_ins_of_the_page_pass_their_suites(tmp_path: Path) -> None:
    found = blocks("plugins.md", "python")
    for block in found:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None, block
        (tmp_path / name[1]).write_text(block)
    (tmp_path / "pyproject.toml").write_text(blocks("plugins.md", "toml")[0])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    # The suites ran, on both event loops.
    assert len(found) == 4
    assert int(said.rpartition(" passed")[0].split()[-1]) >= 40, said


def test_the_entry_point_of_the_page_leads_to_its_builder() -> None:
    project = tomllib.loads(blocks("plugins.md", "toml")[0])
    (points,) = project["project"]["entry-points"].values()
    module, _, name = points["tiny"].partition(":")
    block = next(block for block in blocks("plugins.md", "python") if f"# {module}.py" in block)
    assert f"class {name}(" in block


def test_the_settings_of_the_fake_page_are_settings() -> None:
    (block,) = blocks("fake.md", "toml")
    tree = tomllib.loads(block)
    builder = msgspec.convert(tree["builder"]["fake"], BuilderSettings)
    assert (builder.lines, builder.scripts["*/second-time-lucky*"]) != (10, ())
    assert msgspec.convert(tree["launcher"]["fake"], LauncherSettings).delay == 2.0


@pytest.mark.parametrize("block", blocks("fake.md", "python"))
def test_the_example_of_the_fake_page_runs(block: str) -> None:
    exec(compile(block, "fake.md", "exec"), {"__name__": "fake_md"})
