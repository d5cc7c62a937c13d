"""Specs of the form ``user/repo/ref``, which several services share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from urllib.parse import unquote

from binder_core.plugin import Asks, Display, Pasted, Resolved, Spec, SpecError
from binder_core.providers import _service, _text
from binder_core.providers._pasted import escaped_ref, join, take_apart

_NO_REF_YET = frozenset({"main", "master", "HEAD"})


class UserRepo(ABC):
    """A provider of ``user/repo/ref``; a subclass knows the service's questions.

    Args:
        prefix: The prefix it serves.
        host: Where people see the repositories, ``github.com``.
        display: What pages show of it.
    """

    def __init__(self, prefix: str, host: str, display: Display) -> None:
        self.prefix = prefix
        self.host = host
        self.display = display
        self.name = display.name

    @abstractmethod
    def ask(self, repo: str, ref: str) -> Asks[str | None]:
        """Ask for the commit of a ref, None if there is no such ref or repository.

        Args:
            repo: ``user/repo``, escaped for a URL.
            ref: The ref; ``HEAD`` is the newest commit of the default branch.
        """

    @abstractmethod
    def ref_url(self, repo_url: str, ref: str) -> str:
        """Return the page that shows a commit's files."""

    def parse(self, text: str) -> Spec:
        """Take ``user/repo/ref`` apart. The ref may hold slashes, and keeps its escapes.

        Raises:
            SpecError: It has another form.
        """
        whole = _text.whole(text)
        parts = whole.split(2)
        if len(parts) != 3:
            tip = ""
            if len(parts) == 2 and str(parts[1]) not in {"", *_NO_REF_YET}:
                tip = f' Did you mean "{text}/HEAD"?'
            raise whole.error(
                f'Spec is not of the form "user/repo/ref", provided: "{_short(text)}".{tip}',
                (len(text), len(text)),
            )
        user, repo, ref = parts
        owner = _text.name(user, "the user")
        title = _text.unescaped(repo, "the repository").removesuffix(".git")
        _text.checked_name(repo, title, "the repository")
        _text.ref(ref)
        return Spec(self.prefix, f"{owner}/{title}", str(ref))

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return f"{_escaped(spec.repo)}/{spec.ref}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask for the commit of the ref.

        Raises:
            RefNotFound: The service knows no such repository or ref.
            ProviderUnavailable: It did not say.
        """

        def ask(ref: str) -> Asks[str | None]:
            return self.ask(_escaped(spec.repo), ref)

        ref = unquote(spec.ref)
        commit, notice = yield from _service.commit_or_head(ask, ref, spec.repo, self.name)
        return replace(self.pinned(spec, commit), notice=notice)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the commit `ref`."""
        url = f"https://{self.host}/{spec.repo}"
        return Resolved(
            provider=self.prefix,
            spec=f"{_escaped(spec.repo)}/{ref}",
            repo_url=url,
            ref=ref,
            ref_url=self.ref_url(url, ref),
            slug=self.slug(spec),
        )

    def slug(self, spec: Spec) -> str:
        """Return what names the repository among all of this service."""
        return spec.repo.replace("/", "-", 1)

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a page of a repository, folder, file, tag or commit means."""
        pasted = take_apart(url)
        if pasted is None or pasted.host != self.host or len(pasted.steps) < 2:
            return None
        user, repo = pasted.steps[:2]
        ref, path = self.where(pasted.steps[2:])
        text = f"{_text.escape(user)}/{_text.escape(repo.removesuffix('.git'))}/{escaped_ref(ref)}"
        try:
            self.parse(text)
        except SpecError:
            return None
        return Pasted(text, path)

    def where(self, steps: tuple[str, ...]) -> tuple[str, str]:
        """Return the ref and the path that a page of a repository shows.

        A URL does not say where a ref with slashes ends and the path begins: the ref is taken to
        be one step long.

        Args:
            steps: The URL's path behind the repository.
        """
        match steps:
            case ("tree" | "blob" | "blame" | "edit" | "raw" | "commits", ref, *path):
                return ref, join(tuple(path))
            case ("commit", ref, *_) | ("releases", "tag", ref):
                return ref, ""
            case _:
                return "HEAD", ""


def _escaped(repo: str) -> str:
    return "/".join(_text.escape(step) for step in repo.split("/"))


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
