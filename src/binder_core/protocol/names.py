"""Names in a declaration, and what becomes of them in Python and on a command line.

| declared | command line | Python |
|---|---|---|
| ``statusAll`` | ``status-all`` | ``status_all`` |
| ``_preloadStatus`` | ``preload-status`` | ``preload_status`` |
| ``template-name`` | ``template-name`` | ``template_name`` |
| ``noDatabase``, an error | | ``NoDatabase`` |
"""

from __future__ import annotations

import keyword
import re
from typing import Final

_NAME: Final = re.compile(r"_?[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*", re.ASCII)
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_name(text: str) -> bool:
    """Return whether a group, endpoint, parameter or field can have this name."""
    return _NAME.fullmatch(text) is not None


def kebab_name(name: str) -> str:
    """Return the name as a word of a command line."""
    return _HUMP.sub("-", name.removeprefix("_")).replace("_", "-").lower()


def python_name(name: str) -> str:
    """Return the name as an attribute or argument; a keyword of Python gets a ``_`` behind it."""
    word = kebab_name(name).replace("-", "_")
    return word + "_" if keyword.iskeyword(word) else word


def class_name(name: str) -> str:
    """Return the name as a class."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", name))
