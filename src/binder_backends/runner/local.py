"""The local recipe: a folder with the repository and an environment for it.

The environment is made where it will be used, because it cannot be moved. What says that the image
exists is a small file beside it, written last and put into place at once: half an image is none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from binder_backends.runner.declared import read_declared
from binder_backends.runner.fetching import fetch
from binder_backends.runner.installing import Place, install
from binder_backends.runner.options import LocalRecipe
from binder_backends.runner.recipes import Recipe, RecipeFailed, Say


class Built(msgspec.Struct, frozen=True):
    """The file that says that an image exists."""

    image: str
    run_id: str
    """The run that made it."""
    folder: str
    """Where it is; in it ``repo`` and ``env``."""
    start: str = ""
    """The script that starts the server, relative to the repository; empty if there is none."""


def read_built(file: Path) -> Built | None:
    """Return what `file` says of an image, None if there is none.

    Raises:
        OSError: Nobody knows.
    """
    try:
        built = msgspec.json.decode(file.read_bytes(), type=Built)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return built if Path(built.folder).is_dir() else None


def local(recipe: LocalRecipe) -> Recipe:
    """Make the image; remove what there is of it if that fails.

    Raises:
        RecipeFailed: There is no image, and never will be.
    """
    folder = Path(recipe.folder)
    done = False
    try:
        yield from _make(recipe, folder)
        done = True
    except OSError as error:
        raise RecipeFailed(
            f"The build could not write or read its files: {error.strerror or error}."
        ) from error
    finally:
        if not done:
            remove_image(folder)


def _make(recipe: LocalRecipe, folder: Path) -> Recipe:
    folder.mkdir(parents=True, mode=0o700)
    place = Place(repo=folder / "repo", env=folder / "env", temporary=folder / "tmp")
    home = place.temporary / "home"
    home.mkdir(parents=True)
    yield from fetch(recipe, place.repo, home)
    declared = read_declared(place.repo)
    for notice in declared.notices:
        yield Say(notice)
    yield from install(recipe, declared, place)
    remove_tree(place.temporary)
    built = Built(recipe.image, recipe.run_id, recipe.folder, declared.start)
    half = folder / "built.json"
    half.write_bytes(msgspec.json.encode(built))
    half.replace(recipe.built_file)


def remove_image(folder: Path) -> None:
    """Remove what a run made of an image, and the folder around it if no other run is in there."""
    remove_tree(folder)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, also what took away its own write permission."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError:
        for path, folders, _ in os.walk(folder):
            for name in (".", *folders):
                inner = Path(path, name)
                if not inner.is_symlink():
                    with contextlib.suppress(OSError):
                        inner.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
