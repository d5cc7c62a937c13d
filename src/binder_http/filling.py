"""Fills structs from what was given as text and tables, and says exactly what does not fit.

A tree is a dict whose leaves are `Given`: a value and where it came from. Trees of several sources
are laid over one another; `fill` turns the outcome into a struct.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from binder_core.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

_AT: Final = re.compile(r" - at `\$(.*)`$")
_SECRET_NAME: Final = re.compile(
    r"(?:^|[._])(?:token|password|passphrase|secret|key|credential)s?(?:$|[.])", re.IGNORECASE
)
_SHOWN: Final = 80

HIDDEN: Final = "***"
"""Stands for a secret that is set."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and where it came from."""

    value: Any
    where: str
    """For people: ``binder.toml``, ``environment variable BINDER_SERVER__PORT``."""
    text: bool = False
    """Whether it is text that stands for a value of whatever type is expected."""


Tree: TypeAlias = "dict[str, Given | Tree]"


def tree(values: Mapping[str, Any], where: str, *, text: bool = False) -> Tree:
    """Return nested mappings as a tree.

    Args:
        values: The leaves may be of any type.
        where: Where they all came from.
        text: Whether strings among them may stand for other types.
    """
    made: Tree = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            made[str(key)] = tree(value, where, text=text)
        else:
            made[str(key)] = Given(value, where, text=text and isinstance(value, str))
    return made


def lay_over(below: Tree, above: Tree) -> Tree:
    """Return both in one; where both have a value it is that of `above`."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        merged[key] = lay_over(under, value) if both else value  # type: ignore[arg-type] # narrowed
    return merged


def put(into: Tree, path: Iterable[str], given: Given) -> None:
    """Put a leaf into a tree, at a path."""
    *sections, key = path
    for section in sections:
        below = into.setdefault(section, {})
        if not isinstance(below, dict):
            below = into[section] = {}
        into = below
    into[key] = given


def fill(cls: type[S], given: Mapping[str, Given | Tree], path: str) -> S:
    """Return a struct made of what was given, the rest being its defaults.

    Args:
        cls: The struct. Its field types say what is expected.
        given: What was given, by the fields' names.
        path: The dotted name of all this, empty at the top.

    Raises:
        ConfigError: A key is unknown or missing, or a value does not fit; the message names it.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise unknown(_join(path, key), fields, _where(value), path)
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in given:
            values[field.name] = _value(field.type, given[key], _join(path, key))
        elif field.required:
            raise ConfigError(f"{_join(path, key)}: is missing, and has no default")
    try:
        return cls(**values)
    except ValueError as error:  # from its __post_init__
        raise ConfigError(f"{path or 'configuration'}: {error}") from error


def unknown(name: str, known: Iterable[str], where: str, path: str) -> ConfigError:
    """Return the error for a key that does not exist.

    Args:
        name: Its dotted name.
        known: The keys there are beside it.
        where: Where it came from.
        path: The dotted name of what it is in.
    """
    known = sorted(known)
    key = name.rpartition(".")[2]
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        hint = f"did you mean {_join(path, near[0])}?"
    else:
        hint = f"known{f' in {path}' if path else ''}: {', '.join(known) or 'nothing'}"
    return ConfigError(f"{name}: there is no such setting ({where}); {hint}")


def _value(expected: Any, given: Given | Tree, name: str) -> Any:
    if isinstance(given, dict):
        inner = _bare(expected)
        if _is_struct(inner):
            return fill(inner, given, name)
        if typing.get_origin(inner) is dict:
            below = typing.get_args(inner)[1]
            return {key: _value(below, value, _join(name, key)) for key, value in given.items()}
        raise ConfigError(f"{name}: expected {_words(expected)}, got a table ({_where(given)})")
    choices = _choices(expected)
    if choices and given.value not in choices:
        near = difflib.get_close_matches(str(given.value), [str(one) for one in choices], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        expects = ", ".join(repr(one) for one in choices)
        raise ConfigError(f"{name}: expected one of {expects}, got {_given(given, name)}{hint}")
    try:
        return _converted(expected, given)
    except msgspec.ValidationError as error:
        message = str(error)
        at = _AT.search(message)
        inside = at[1] if at else ""
        said = message[: at.start()] if at else message
        said = said[:1].lower() + said[1:]
        secret = is_secret(expected, name)
        got = f"a secret ({given.where})" if secret else _given(given, name)
        raise ConfigError(f"{name}{inside}: {said}; given: {got}") from None


def _converted(expected: Any, given: Given) -> Any:
    if not given.text:
        return msgspec.convert(given.value, expected)
    text: str = given.value
    try:
        return msgspec.convert(text, expected, strict=False)
    except msgspec.ValidationError:
        if text.lstrip().startswith(("[", "{")):
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                raise msgspec.ValidationError("Expected a TOML value") from None
            return msgspec.convert(value, expected)
        if typing.get_origin(_bare(expected)) in {list, tuple, set, frozenset}:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            return msgspec.convert(parts, expected, strict=False)
        raise


def is_secret(expected: Any, name: str) -> bool:
    """Return whether a setting must not be shown: it is marked, or named like one.

    Args:
        expected: Its type; marked by ``Annotated[str, msgspec.Meta(extra={"secret": True})]``.
        name: Its dotted name; what it is in may be named like one too.
    """
    if _SECRET_NAME.search(name):
        return _bare(expected) is not bool
    if typing.get_origin(expected) is typing.Annotated:
        inner, *metas = typing.get_args(expected)
        marked = any(isinstance(meta, msgspec.Meta) and _marks(meta) for meta in metas)
        return marked or is_secret(inner, "")
    return any(is_secret(inner, "") for inner in typing.get_args(expected))


def _marks(meta: msgspec.Meta) -> bool:
    return bool(meta.extra and meta.extra.get("secret"))


def shown(struct: msgspec.Struct) -> dict[str, Any]:
    """Return a struct as plain values, secrets replaced by `HIDDEN`."""
    return {
        field.encode_name: _shown(getattr(struct, field.name), field.type, field.encode_name)
        for field in msgspec.structs.fields(struct)
    }


def _shown(value: Any, expected: Any, name: str) -> Any:
    if is_secret(expected, name):
        if isinstance(value, Mapping):
            return dict.fromkeys(map(str, value), HIDDEN)
        return HIDDEN if value else value
    if isinstance(value, msgspec.Struct):
        return shown(value)
    if isinstance(value, Mapping):
        below = typing.get_args(_bare(expected))
        inner = below[1] if len(below) == 2 else Any
        return {str(key): _shown(one, inner, str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one, Any, "") for one in value]
    return msgspec.to_builtins(value)


def _bare(expected: Any) -> Any:
    """Return a type without its annotations and without "or None"."""
    while typing.get_origin(expected) is typing.Annotated:
        expected = typing.get_args(expected)[0]
    if typing.get_origin(expected) in {typing.Union, types.UnionType}:
        others = [one for one in typing.get_args(expected) if one is not types.NoneType]
        if len(others) == 1:
            return _bare(others[0])
        # Of "a struct or a list of them" a table can only be the struct.
        structs = [one for one in others if _is_struct(one)]
        if len(structs) == 1:
            return structs[0]
    if typing.get_origin(expected) is Mapping:
        return dict[typing.get_args(expected)]  # type: ignore[misc] # made at run time
    return expected


def _is_struct(expected: Any) -> bool:
    return isinstance(expected, type) and issubclass(expected, msgspec.Struct)


def _choices(expected: Any) -> tuple[Any, ...]:
    bare = _bare(expected)
    return typing.get_args(bare) if typing.get_origin(bare) is Literal else ()


def _words(expected: Any) -> str:
    bare = _bare(expected)
    return f"`{getattr(bare, '__name__', bare)}`"


def _given(given: Given, name: str) -> str:
    if is_secret(str, name):
        return f"a secret ({given.where})"
    text = repr(given.value)
    return f"{text if len(text) <= _SHOWN else text[:_SHOWN] + '…'} ({given.where})"


def _where(given: Given | Tree) -> str:
    while isinstance(given, dict):
        if not given:
            return "an empty table"
        given = next(iter(given.values()))
    return given.where


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
