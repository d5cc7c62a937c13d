"""Any declaration at all, what can be asked of it, and what can be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from binder_core.protocol import (
    GLOBAL_PARAMS,
    DeclarationError,
    Endpoint,
    ErrorCase,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Request,
    Response,
    Shape,
    Success,
    Value,
    kebab_name,
)

# Such names meet often, in every sense: as words, as keywords, as what clients have themselves.
NAMES: Final = [
    *("a", "aB", "a-b", "_b", "b2", "c", "x_y", "z", "Z-z", "getURL", "template-name", "_preload"),
    *("class", "id", "self", "file", "json", "timeout", "errors", "close", "statusAll"),
]
WORDS: Final = ["", "a word", "é | <b> \U0001f600", "\x1b[31m red", "two\nlines", " "]

# Sampled ones: a whole declaration of free ones takes Hypothesis a tenth of a second to draw.
names = st.sampled_from(NAMES)
words = st.sampled_from(WORDS)
literals = st.sampled_from(["a", "b", "a.b", "~", "0"])
texts = st.text(st.characters(exclude_characters="\0{}", exclude_categories=["Cs"]), max_size=8)
whole = st.integers(-(2**53), 2**53)


def values(param: Param, *, in_path: bool = False) -> st.SearchStrategy[Value]:
    """Return any value of a parameter."""
    match param.type:
        case Kind.STRING if in_path:
            return texts.filter(lambda text: text not in {"", ".", ".."})
        case Kind.STRING:
            return texts
        case Kind.NUMBER:
            return whole | st.floats(allow_nan=False, allow_infinity=False)
        case _:
            return st.booleans()


@st.composite
def params(draw: st.DrawFn) -> tuple[Param, ...]:
    """Return the parameters of an endpoint."""
    called = draw(st.lists(names, unique_by=kebab_name, max_size=3))
    kinds = st.sampled_from([Kind.STRING, Kind.NUMBER, Kind.BOOLEAN])
    return tuple(Param(name, draw(kinds), draw(words), draw(st.booleans())) for name in called)


def error_cases() -> st.SearchStrategy[tuple[ErrorCase, ...]]:
    """Return the errors of an endpoint."""
    one = st.builds(
        ErrorCase,
        # Two names with one class would be an error of the declaration.
        st.sampled_from(["noDatabase", "badQuery", "badDatabase", "unauthorized", "generic"]),
        st.integers(400, 599),
        words | st.just("{host} {name}: {error}"),
        st.lists(words | st.just("ask {host}"), max_size=2).map(tuple),
    )
    return st.lists(one, unique_by=lambda case: case.name, max_size=2).map(tuple)


leaves = st.sampled_from(list(Kind))
shapes: st.SearchStrategy[Shape] = st.recursive(
    leaves | leaves.map(Maybe),
    lambda inner: st.one_of(
        inner.map(Items),
        st.dictionaries(names, inner, max_size=3).map(lambda each: Fields(tuple(each.items()))),
    ),
    max_leaves=4,
)


def answers(shape: Shape | None) -> st.SearchStrategy[Any]:
    """Return any answer of a shape."""
    match shape:
        case Maybe(of):
            return st.none() | answers(of)
        case Items(of):
            return st.lists(answers(of), max_size=3)
        case Fields(fields):
            # More than is declared is fine.
            more = st.dictionaries(st.just("one more"), st.integers(0, 9), max_size=1)
            known = st.fixed_dictionaries({name: answers(each) for name, each in fields})
            return st.tuples(more, known).map(lambda both: both[0] | both[1])
        case Kind.NUMBER:
            return st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
        case Kind.BOOLEAN:
            return st.booleans()
        case Kind.STRING | Kind.DATE:
            return texts
        case Kind.OBJECT | None:
            return st.dictionaries(texts, texts, max_size=2)


@st.composite
def endpoints(draw: st.DrawFn, name: str) -> Endpoint:
    """Return an endpoint of that name."""
    known = draw(params())
    required = [param for param in known if param.required]
    in_path = required[: draw(st.integers(0, len(required)))]
    parts = [f"{{{param.name}}}" for param in in_path]
    parts.insert(draw(st.integers(0, len(parts))), draw(literals))
    optional = [param for param in known if not param.required]
    if draw(st.booleans()) and optional:
        in_path.append(optional[0])
        parts = [*parts, f"{{{optional[0].name}}}"]
    elif draw(st.booleans()):
        parts = [*parts, ""]
    method = draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]))
    rest = [param.name for param in known if param not in in_path]
    bodiless = method in {"GET", "DELETE"}
    body = () if bodiless else tuple(name for name in rest if draw(st.booleans()))
    fillable = ["{host}", *(f"{{{param.name}}}" for param in known)]
    return Endpoint(
        name=name,
        path="/" + "/".join(parts),
        description=draw(words),
        msg=draw(words | st.sampled_from(fillable)),
        params=known,
        request=Request(method, draw(st.booleans()), body),
        response=Response(
            body=draw(st.none() | shapes),
            errors=draw(error_cases()),
            success=Success(draw(words | st.just("{results}")), draw(st.sampled_from([200, 201]))),
        ),
    )


@st.composite
def protocols(draw: st.DrawFn) -> Protocol:
    """Return a declaration with at least one endpoint."""
    asked = [
        Param(name, Kind.NUMBER if name == "port" else Kind.STRING, draw(words))
        for name in GLOBAL_PARAMS
        if draw(st.booleans())
    ]
    everywhere = tuple(
        ErrorCase(case.name, case.status, "all of {name} went wrong", case.suggestions)
        for case in draw(error_cases())
    )
    made = Protocol((), tuple(asked), everywhere)
    groups = draw(
        st.lists(
            names,
            unique_by=kebab_name,
            min_size=1,
            max_size=2,
        )
    )
    for name in groups:
        called = draw(st.lists(names, unique_by=kebab_name, min_size=1, max_size=2))
        kept: list[Endpoint] = []
        for each in called:
            more = [*kept, draw(endpoints(each))]
            try:
                Protocol((*made.groups, Group(name, tuple(more))))
            except DeclarationError:
                # A request would fit two of them, and that is not allowed.
                continue
            kept = more
        if kept:
            made = Protocol((*made.groups, Group(name, tuple(kept))), made.params, made.errors)
    return made


@dataclass(frozen=True, slots=True)
class Case:
    """An endpoint of some declaration, and what to ask it for."""

    protocol: Protocol
    group: Group
    endpoint: Endpoint
    values: dict[str, Value]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a request that is right."""
    protocol = draw(protocols())
    group, endpoint = draw(st.sampled_from(list(protocol)))
    in_path = {part.name for part in endpoint.segments if isinstance(part, Param)}
    given = {
        param.name: draw(values(param, in_path=param.name in in_path))
        for param in endpoint.params
        if param.required or draw(st.booleans())
    }
    return Case(protocol, group, endpoint, given)
