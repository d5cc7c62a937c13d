"""The suite for providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import pytest

from binder_core.plugin import (
    Answer,
    Asks,
    BinderError,
    Display,
    HttpGet,
    HttpReply,
    Pasted,
    Provider,
    ProviderUnavailable,
    Question,
    Resolved,
    Spec,
    SpecError,
)

HOSTILE: tuple[str, ...] = (
    "",
    "/",
    "//",
    "///",
    "-",
    "--upload-pack=x",
    "-x/-y/-z",
    "a/-b/c",
    "a/b/--c",
    "a/b/%2D%2Dc",
    "%2D%2Dupload-pack=x/HEAD",
    "a\nb/c/d",
    "a/b/c%0Ad",
    "a/b%00/c",
    "%1B%5B31m/b/c",
    "%",
    "%zz/%/%2",
    "%ff%fe/b/c",
    "../../etc/passwd/HEAD",
    "a/../c/HEAD",
    "file%3A%2F%2F%2Fetc/HEAD",
    "ext%3A%3Ash%20-c%20id/HEAD",
    "用户/仓库/主",
    "ö" * 200,
    "a/" * 5000,
    "x" * 10_000,
)
"""What somebody may send instead of a spec."""

_QUESTIONS = 50


@dataclass(frozen=True)
class Dialogue:
    """A dialogue as it was recorded: what is asked, what the service answers, what comes of it."""

    text: str
    """The spec."""
    steps: Sequence[tuple[Question, Answer]]
    """Each question with its answer, in order."""
    outcome: Resolved | type[BinderError]
    """What it comes to."""


class ProviderSuite:
    """The contract of `binder_core.plugin.Provider` as tests. They need no event loop.

    Subclass it in a test module as ``class TestMine(ProviderSuite)``.
    """

    # -- What an author gives ----------------------------------------------------------------

    def make_provider(self) -> Provider:
        """Return a provider."""
        raise NotImplementedError

    specs: ClassVar[Sequence[str]] = ()
    """Good specs, without the prefix: of every kind there is, escapes included."""
    bad_specs: ClassVar[Sequence[str]] = ()
    """Specs that are none: each lacks or breaks something."""
    dialogues: ClassVar[Sequence[Dialogue]] = ()
    """Recorded ones: a good end and each error."""
    pasted: ClassVar[Mapping[str, Pasted | None]] = {}
    """URLs from an address bar, and what they mean; None: they are of another kind."""

    # -- The tests ---------------------------------------------------------------------------

    def test_what_every_provider_has(self) -> None:
        """A prefix for the URL, settings, and names for pages."""
        provider = self.make_provider()
        assert provider.prefix.isascii(), "the prefix is part of a URL"
        assert provider.prefix.isalnum(), "the prefix is part of a URL"
        assert isinstance(provider.display, Display)
        assert provider.display.name.strip()
        settings = type(provider).Settings
        assert issubclass(settings, msgspec.Struct), "Settings is a msgspec.Struct"
        config = settings.__struct_config__
        assert config.forbid_unknown_fields, "an unknown setting is an error, not ignored"
        assert self.specs, "the suite needs specs"

    def test_parse_and_format_are_opposites(self) -> None:
        """``parse(format(spec)) == spec``; what `format` makes is a spec of the same meaning."""
        provider = self.make_provider()
        for text in self.specs:
            spec = provider.parse(text)
            assert spec.provider == provider.prefix, text
            assert provider.parse(provider.format(spec)) == spec, text

    def test_a_bad_spec_says_where_the_trouble_is(self) -> None:
        """``SpecError`` with a message, the text as it came, and a span inside it."""
        provider = self.make_provider()
        for text in self.bad_specs:
            with pytest.raises(SpecError) as caught:
                provider.parse(text)
            self._check_error(caught.value, text)

    def test_hostile_text_is_refused_or_harmless(self) -> None:
        """Anything is a `SpecError` or a spec that git and a builder may see."""
        provider = self.make_provider()
        for text in HOSTILE:
            try:
                spec = provider.parse(text)
            except SpecError as error:
                self._check_error(error, text)
            else:
                self._check_harmless(spec, text)

    def test_dialogues(self) -> None:
        """The recorded questions are asked, in order, and come to what they came to."""
        provider = self.make_provider()
        for dialogue in self.dialogues:
            flow = provider.resolve(provider.parse(dialogue.text))
            outcome = _replay(flow, dialogue)
            if isinstance(dialogue.outcome, Resolved):
                assert outcome == dialogue.outcome, dialogue.text
            else:
                assert isinstance(outcome, dialogue.outcome), f"{dialogue.text}: {outcome!r}"
                assert isinstance(outcome, BinderError)
                assert outcome.message.strip(), f"{dialogue.text}: the error says nothing"

    def test_questions_carry_no_credentials(self) -> None:
        """Who performs a question adds those; a recorded or logged one shows none."""
        provider = self.make_provider()
        for text in self.specs:
            for question in self._questions(provider, text):
                if isinstance(question, HttpGet):
                    names = {name.lower() for name, _ in question.headers}
                    assert not names & {"authorization", "cookie", "private-token"}, text
                    assert "@" not in question.url.split("/")[2], text

    def test_a_service_that_does_not_answer_is_no_missing_ref(self) -> None:
        """No answer, or a 503: `ProviderUnavailable`, so that nobody is told their link is bad."""
        provider = self.make_provider()
        for text in self.specs:
            for answer in (ProviderUnavailable("no answer"), HttpReply(503, "")):
                outcome = _answer_all(provider.resolve(provider.parse(text)), answer)
                if outcome is not None:
                    assert isinstance(outcome, ProviderUnavailable), f"{text}: {outcome!r}"

    def test_pinned_is_what_resolve_comes_to(self) -> None:
        """``pinned(spec, ref)`` equals the resolution that came to `ref`, and asks nobody."""
        provider = self.make_provider()
        for dialogue in self.dialogues:
            if isinstance(dialogue.outcome, Resolved):
                spec = provider.parse(dialogue.text)
                told = replace(dialogue.outcome, notice="")
                assert provider.pinned(spec, told.ref) == told, dialogue.text

    def test_a_pinned_spec_means_the_same_for_ever(self) -> None:
        """`Resolved.spec` can be parsed, and pinned again it is equal."""
        provider = self.make_provider()
        for dialogue in self.dialogues:
            if isinstance(dialogue.outcome, Resolved):
                told = replace(dialogue.outcome, notice="")
                assert told.provider == provider.prefix
                assert told.slug, "a slug names the repository"
                assert told.repo_url, "a builder needs something to fetch"
                assert provider.pinned(provider.parse(told.spec), told.ref) == told

    def test_recognise(self) -> None:
        """Pasted URLs mean what they should, and anything else means nothing."""
        provider = self.make_provider()
        for url, meaning in self.pasted.items():
            assert provider.recognise(url) == meaning, url
            if meaning is not None:
                provider.parse(meaning.spec)
        for text in HOSTILE:
            found = provider.recognise(text)
            assert found is None or isinstance(found, Pasted), text

    # -- Steps -------------------------------------------------------------------------------

    def _questions(self, provider: Provider, text: str) -> list[Question]:
        """Return what is asked about a spec: all that is on record, else the first question."""
        recorded = [
            question
            for dialogue in self.dialogues
            if dialogue.text == text
            for question, _ in dialogue.steps
        ]
        flow = provider.resolve(provider.parse(text))
        try:
            return [next(flow), *recorded]
        except StopIteration:
            return recorded
        finally:
            flow.close()

    def _check_error(self, error: SpecError, text: str) -> None:
        assert error.message.strip(), f"{text[:80]!r}: the error says nothing"
        assert error.text == text, f"{text[:80]!r}: the error shows another text"
        start, end = error.span
        assert 0 <= start <= end <= len(text), f"{text[:80]!r}: the span {error.span} is outside"

    def _check_harmless(self, spec: Spec, text: str) -> None:
        for part in (spec.repo, spec.ref):
            shown = f"{text[:80]!r} became {part[:80]!r}"
            assert not part.startswith("-"), f"{shown}: git would read an option"
            assert not any(piece.startswith("-") for piece in part.split("/")[:2]), shown
            assert not any(ord(char) < 32 or ord(char) == 127 for char in part), shown
            assert not part.lower().startswith(("file:", "ext::")), f"{shown}: git would obey"


def _replay(flow: Asks[Resolved], dialogue: Dialogue) -> Resolved | BinderError:
    answers = iter(dialogue.steps)
    try:
        question = next(flow)
        for expected, answer in answers:
            assert question == expected, dialogue.text
            question = flow.send(answer)
    except StopIteration as stop:
        outcome: Resolved = stop.value
    except BinderError as error:
        return error
    else:
        raise AssertionError(f"{dialogue.text}: asked {question}, which is not on record")
    assert next(answers, None) is None, f"{dialogue.text}: not all that is on record was asked"
    return outcome


def _answer_all(flow: Asks[Resolved], answer: Answer | Exception) -> Resolved | Exception | None:
    """Return what comes of it if each question gets the same answer; None if nothing was asked."""
    try:
        question = next(flow)
    except StopIteration:
        return None
    try:
        for _ in range(_QUESTIONS):
            if isinstance(answer, Exception):
                question = flow.throw(answer)
            elif isinstance(question, HttpGet):
                question = flow.send(answer)
            else:
                flow.close()
                return None
    except StopIteration as stop:
        outcome: Resolved = stop.value
        return outcome
    except Exception as error:  # noqa: BLE001 - the test says what it should have been
        return error
    raise AssertionError(f"still asking after {_QUESTIONS} questions: {question}")
