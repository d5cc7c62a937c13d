"""The suite for providers: on a small one, on that one broken on purpose, and on three more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote, unquote

import msgspec
import pytest

from binder_core.plugin import (
    Asks,
    Display,
    HttpGet,
    HttpReply,
    NoSettings,
    Pasted,
    Provider,
    ProviderUnavailable,
    RefNotFound,
    Resolved,
    Spec,
    SpecError,
    http_get,
)
from binder_core.providers.git import Git, GitSettings
from binder_core.providers.github import GitHub, GitHubSettings
from binder_core.providers.gitlab import GitLab, GitLabSettings
from binder_core.testing import Dialogue, ProviderSuite

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Shelf:
    """A made-up service: ``<book>/<edition>``."""

    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    display = Display(name="Shelf", repo_label="Book", repo_placeholder="example: alice")

    def __init__(self, prefix: str = "shelf") -> None:
        self.prefix = prefix

    def parse(self, text: str) -> Spec:
        book, edition = (unquote(part) for part in text.partition("/")[::2])
        for part in (book, edition):
            if not part.isprintable() or part.startswith(("-", ".", "/")) or "/-" in part:
                raise SpecError("No such name.", text=text, span=(0, len(text)))
        if not book or not edition or ":" in book or len(text) > 1000:
            raise SpecError("Expected <book>/<edition>.", text=text, span=(0, len(text)))
        return Spec(self.prefix, book, edition)

    def format(self, spec: Spec) -> str:
        return f"{quote(spec.repo, safe='')}/{quote(spec.ref, safe='')}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        reply = yield from http_get(f"https://shelf.example/{quote(spec.repo)}")
        if reply.status == 404:
            raise RefNotFound(f"There is no book {spec.repo}.")
        if reply.status != 200:
            raise ProviderUnavailable(f"shelf.example answered {reply.status}.")
        return self.pinned(spec, reply.body.decode())

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        url = f"https://shelf.example/{quote(spec.repo)}"
        return Resolved(
            self.prefix, f"{quote(spec.repo, safe='')}/{ref}", url, ref, f"{url}/{ref}", spec.repo
        )

    def recognise(self, url: str) -> Pasted | None:
        head = "https://shelf.example/"
        return Pasted(f"{url.removeprefix(head)}/first") if url.startswith(head) else None


class ShelfSuite(ProviderSuite):
    provider: ClassVar[type[Shelf]] = Shelf
    specs = ("alice/first", "through%20the%20glass/2")
    bad_specs = ("alice", "/first", "alice/", "alice/-first")
    dialogues: ClassVar[Sequence[Dialogue]] = (
        Dialogue(
            "alice/first",
            [(HttpGet("https://shelf.example/alice"), HttpReply(200, "", body=b"e1865"))],
            Resolved(
                provider="shelf",
                spec="alice/e1865",
                repo_url="https://shelf.example/alice",
                ref="e1865",
                ref_url="https://shelf.example/alice/e1865",
                slug="alice",
            ),
        ),
        Dialogue(
            "bob/first",
            [(HttpGet("https://shelf.example/bob"), HttpReply(404, ""))],
            RefNotFound,
        ),
    )
    pasted: ClassVar[Mapping[str, Pasted | None]] = {
        "https://shelf.example/alice": Pasted("alice/first"),
        "https://example.org/alice": None,
    }

    def make_provider(self) -> Provider:
        return self.provider()


class TestShelf(ShelfSuite):
    pass


class PrefixIsAPath(Shelf):
    def __init__(self) -> None:
        super().__init__("my/shelf")


class FormatForgetsEscapes(Shelf):
    def format(self, spec: Spec) -> str:
        return f"{spec.repo}//{spec.ref}"


class AnythingGoes(Shelf):
    def parse(self, text: str) -> Spec:
        return Spec(self.prefix, *(unquote(part) for part in text.partition("/")[::2]))


class MinusGoes(Shelf):
    def parse(self, text: str) -> Spec:
        spec = super().parse(text.lstrip("-"))
        return Spec(spec.provider, "-" + spec.repo, spec.ref) if text[0] == "-" else spec


class SpanIsOutside(Shelf):
    def parse(self, text: str) -> Spec:
        try:
            return super().parse(text)
        except SpecError as error:
            raise SpecError(error.message, text=text, span=(0, len(text) + 1)) from None


class BadSpecIsAValueError(Shelf):
    def parse(self, text: str) -> Spec:
        try:
            return super().parse(text)
        except SpecError as error:
            raise ValueError(error.message) from None


class AsksAnother(Shelf):
    def resolve(self, spec: Spec) -> Asks[Resolved]:
        yield from http_get("https://shelf.example/")
        return (yield from super().resolve(spec))


class AsksWithCredentials(Shelf):
    def resolve(self, spec: Spec) -> Asks[Resolved]:
        yield from http_get("https://shelf.example/", headers={"Authorization": "Bearer s3cret"})
        return (yield from super().resolve(spec))


class NoAnswerIsNoBook(Shelf):
    def resolve(self, spec: Spec) -> Asks[Resolved]:
        try:
            return (yield from super().resolve(spec))
        except ProviderUnavailable as error:
            raise RefNotFound(error.message) from None


class PinsTheTypedRef(Shelf):
    def resolve(self, spec: Spec) -> Asks[Resolved]:
        resolved = yield from super().resolve(spec)
        return Resolved(
            resolved.provider, resolved.spec, resolved.repo_url, spec.ref, resolved.ref_url, "alice"
        )


class PinsAnotherWay(Shelf):
    def resolve(self, spec: Spec) -> Asks[Resolved]:
        resolved = yield from super().resolve(spec)
        return super().pinned(spec, resolved.ref)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        return super().pinned(spec, ref.upper())


class RecognisesAll(Shelf):
    def recognise(self, url: str) -> Pasted | None:
        return Pasted(f"{url}/first")


MUTANTS: dict[type[Shelf], str] = {
    PrefixIsAPath: "test_what_every_provider_has",
    FormatForgetsEscapes: "test_parse_and_format_are_opposites",
    AnythingGoes: "test_a_bad_spec_says_where_the_trouble_is",
    MinusGoes: "test_hostile_text_is_refused_or_harmless",
    SpanIsOutside: "test_a_bad_spec_says_where_the_trouble_is",
    BadSpecIsAValueError: "test_hostile_text_is_refused_or_harmless",
    AsksAnother: "test_dialogues",
    AsksWithCredentials: "test_questions_carry_no_credentials",
    NoAnswerIsNoBook: "test_a_service_that_does_not_answer_is_no_missing_ref",
    PinsTheTypedRef: "test_dialogues",
    PinsAnotherWay: "test_pinned_is_what_resolve_comes_to",
    RecognisesAll: "test_recognise",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_suite_notices(mutant: type[Shelf]) -> None:
    class Suite(ShelfSuite):
        provider = mutant

    with pytest.raises((AssertionError, SpecError, ValueError, pytest.fail.Exception)):
        getattr(Suite(), MUTANTS[mutant])()


class TestGitHub(ProviderSuite):
    specs = ("user/repo/HEAD", "user/repo/feature/status", f"user/repo.git/{COMMIT}")
    bad_specs = ("user", "user/repo", "/repo/HEAD", "user//HEAD", "user/repo/")
    dialogues: ClassVar[Sequence[Dialogue]] = (
        Dialogue(
            "user/repo/HEAD",
            [
                (
                    HttpGet(
                        "https://api.github.com/repos/user/repo/commits/HEAD",
                        (("accept", "application/vnd.github+json"),),
                    ),
                    HttpReply(200, "", body=b'{"sha": "%s"}' % COMMIT.encode()),
                )
            ],
            Resolved(
                provider="gh",
                spec=f"user/repo/{COMMIT}",
                repo_url="https://github.com/user/repo",
                ref=COMMIT,
                ref_url=f"https://github.com/user/repo/tree/{COMMIT}",
                slug="user-repo",
            ),
        ),
    )

    def make_provider(self) -> Provider:
        return GitHub("gh", GitHubSettings())


class TestGitLab(ProviderSuite):
    specs = ("group%2Fproject/main", "group%2Fsub%2Fproject/feature/status")
    bad_specs = ("group", "group%2Fproject", "group%2Fproject/", "/main")

    def make_provider(self) -> Provider:
        return GitLab("gl", GitLabSettings())


class TestGit(ProviderSuite):
    specs = ("https%3A%2F%2Fexample.org%2Frepo.git/main", "git%40example.org%3Auser%2Frepo/HEAD")
    bad_specs = ("https%3A%2F%2Fexample.org%2Frepo", "/main", "ftp%3A%2F%2Fexample.org%2Fr/main")

    def make_provider(self) -> Provider:
        return Git("git", GitSettings())
