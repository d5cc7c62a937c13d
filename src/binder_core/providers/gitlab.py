"""GitLab: gitlab.com and self-hosted servers.

Source: https://docs.gitlab.com/api/commits/#retrieve-a-commit
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import msgspec

from binder_core.plugin import Asks, Display, Pasted, Resolved, Spec, SpecError, http_get
from binder_core.providers import _service, _text
from binder_core.providers._pasted import escaped_ref, join, take_apart


class _Commit(msgspec.Struct):
    id: str


class GitLabSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which GitLab it is."""

    host: str = "gitlab.com"
    """The server."""
    name: str = ""
    """What people call it; by default ``GitLab.com``, or the host."""


class GitLab:
    """Repositories of a GitLab: ``<namespace, escaped>/<ref>``."""

    Settings: ClassVar[type[msgspec.Struct]] = GitLabSettings

    def __init__(self, prefix: str, settings: GitLabSettings) -> None:
        self.prefix = prefix
        self._host = host = settings.host.lower()
        self.name = name = settings.name or ("GitLab.com" if host == "gitlab.com" else host)
        # Namespaces may be nested; "/-/" ends them.
        page = rf"^https://{re.escape(host)}/(?<repo>[^/]+/[^/]+(/[^/-][^/]+)*)"
        self.display = Display(
            name=name,
            repo_label=f"{name} repository or URL",
            repo_placeholder=f"example: https://{host}/group/project",
            spec_regex=r"[^/]+%2[Ff][^/]+/.+",
            url_regexes=(
                page + r"(/-/blob/(?<ref>[^/]+)(/(?<filepath>.+))?)?$",
                page + r"(/-/tree/(?<ref>[^/]+)(/(?<urlpath>.+))?)?$",
            ),
        )

    def parse(self, text: str) -> Spec:
        """Take ``<namespace, escaped>/<ref>`` apart.

        Raises:
            SpecError: It has another form.
        """
        whole = _text.whole(text)
        first, *rest = whole.split(1)
        namespace = _text.unescaped(first, "the namespace")
        if "/" not in namespace:
            raise whole.error(
                "The namespace of a GitLab repository holds a group and a project, and its slashes "
                'are escaped: "group%2Fproject/HEAD".',
                (first.start, first.end),
            )
        steps = namespace.removesuffix(".git").split("/")
        for step in steps:
            _text.checked_name(first, step, "each step of the namespace")
        if not rest or not str(rest[0]):
            given = str(first)
            raise whole.error(
                f'A ref is missing. Did you mean "{given}/HEAD"?', (len(text), len(text))
            )
        return Spec(self.prefix, "/".join(steps), _text.ref(rest[0]))

    def format(self, spec: Spec) -> str:
        """Return the text of a spec."""
        return f"{_text.escape(spec.repo)}/{escaped_ref(spec.ref)}"

    def resolve(self, spec: Spec) -> Asks[Resolved]:
        """Ask for the commit of the ref.

        Raises:
            RefNotFound: The server knows no such repository or ref.
            ProviderUnavailable: It did not say.
        """

        def ask(ref: str) -> Asks[str | None]:
            project = f"https://{self._host}/api/v4/projects/{_text.escape(spec.repo)}"
            reply = yield from http_get(f"{project}/repository/commits/{_text.escape(ref)}")
            if reply.status == 404:
                return None
            return _service.commit(self.name, _service.read(self.name, reply, _Commit).id)

        commit, notice = yield from _service.commit_or_head(ask, spec.ref, spec.repo, self.name)
        return replace(self.pinned(spec, commit), notice=notice)

    def pinned(self, spec: Spec, ref: str) -> Resolved:
        """Return what `resolve` comes to where it comes to the commit `ref`."""
        url = f"https://{self._host}/{spec.repo}"
        return Resolved(
            provider=self.prefix,
            spec=f"{_text.escape(spec.repo)}/{ref}",
            repo_url=f"{url}.git",
            ref=ref,
            ref_url=f"{url}/-/tree/{ref}",
            slug="-".join(step.replace("-", "_-") for step in spec.repo.split("/")),
        )

    def recognise(self, url: str) -> Pasted | None:
        """Return what the URL of a page of a project, folder, file, tag or commit means."""
        pasted = take_apart(url)
        if pasted is None or pasted.host != self._host:
            return None
        steps = pasted.steps
        cut = steps.index("-") if "-" in steps else len(steps)
        ref, path = "HEAD", ""
        match steps[cut + 1 :]:
            case ("tree" | "blob" | "blame" | "raw" | "edit" | "commits", name, *rest):
                ref, path = name, join(tuple(rest))
            case ("commit" | "tags", name, *_):
                ref = name
        namespace = join(steps[:cut]).removesuffix(".git")
        text = f"{_text.escape(namespace)}/{escaped_ref(ref)}"
        try:
            self.parse(text)
        except SpecError:
            return None
        return Pasted(text, path)
