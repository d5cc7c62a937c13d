"""The small program inside every build: ``python -m binder_backends.runner``.

It performs one recipe, reads whatever that prints, and writes the numbered JSON lines of
`binder_core.runlog` to its standard output, the last of them the outcome. Recipes:

- ``repo2docker``: any command that logs as ``repo2docker --json-logs`` does;
- ``local``: a folder with the repository and an environment made by uv or conda.

`text`, `push`, `sorting`, `pacing`, `cap` and `pipeline` are pure: bytes and the time go in, log
lines come out. `performing` and `processes` run things. It leaves no descendant process behind.
"""

from binder_backends.runner.options import (
    FROM_OUTSIDE,
    AnyRecipe,
    CommandRecipe,
    EngineOptions,
    LocalRecipe,
    PushOptions,
    RunnerOptions,
)

__all__ = [
    "FROM_OUTSIDE",
    "AnyRecipe",
    "CommandRecipe",
    "EngineOptions",
    "LocalRecipe",
    "PushOptions",
    "RunnerOptions",
]
