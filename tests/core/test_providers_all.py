"""What holds for all providers: names, any text at all, pasted URLs."""

from __future__ import annotations

import json
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binder_core.naming import image_name
from binder_core.plugin import Provider, Spec, SpecError
from binder_core.providers import PROVIDERS, defaults, recognise
from binder_core.providers.gitlab import GitLab, GitLabSettings

NAMING: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "naming.json").read_text(encoding="utf-8")
)
ALL = defaults()


@pytest.mark.parametrize("row", NAMING, ids=lambda row: f"{row['provider']}:{row['spec']}")
def test_names_come_out_as_binderhubs(row: dict[str, Any]) -> None:
    provider = ALL[row["provider"]]
    if "error" in row:
        with pytest.raises(SpecError) as caught:
            provider.parse(row["spec"])
        assert f"ValueError: {caught.value.message}" == row["error"]
        return
    spec = provider.parse(row["spec"])
    assert spec.ref == row["unresolved_ref"]
    resolved = provider.pinned(spec, row["ref"])
    assert resolved.repo_url == row["repo_url"]
    assert resolved.slug == row["build_slug"]
    assert resolved.ref == row["ref"]
    for prefix, image in row["image"].items():
        assert image_name(prefix, resolved.slug, resolved.ref) == image


# Text that nearly is a spec finds more than text that is none.
_PIECES = st.sampled_from(
    [
        *(
            "user",
            "repo",
            "HEAD",
            "main",
            "v1.0",
            "-x",
            "..",
            ".",
            "",
            "é",
            "用户",
            "a b",
            "%",
            "%2",
        ),
        *(
            "%2F",
            "%2f",
            "%2D",
            "%0A",
            "%00",
            "%ff",
            "%C3%A9",
            "%25",
            "@",
            ":",
            "/",
            "//",
            "\\",
            "#",
        ),
        *("?", "\n", "\x00", "\u202e", "\ud800", "x" * 3000, "https://", "https%3A%2F%2F", "git@"),
        *("host.example", "[::1]", ":80", "ext::", "file%3A%2F%2F%2F", "dataset", "dataset%2F"),
        *("10.5281/", "zenodo.", "figshare.", ".v1", "1234", "swh:1:rev:", "0" * 40, "a" * 32, ";"),
    ]
)
_TEXTS = st.one_of(
    st.lists(_PIECES, max_size=8).map("".join),
    st.lists(_PIECES, max_size=5).map("/".join),
    st.text(max_size=60),
    st.text(alphabet="/%-.:@a0 \n", max_size=30),
)
_PREFIXES = sorted(PROVIDERS)


@settings(max_examples=400, deadline=None)
@given(prefix=st.sampled_from(_PREFIXES), text=_TEXTS)
def test_any_text_is_parsed_or_refused(prefix: str, text: str) -> None:
    provider = ALL[prefix]
    begun = time.perf_counter()
    found: Spec | SpecError
    try:
        found = provider.parse(text)
    except SpecError as error:
        found = error
    assert time.perf_counter() - begun < 1
    if isinstance(found, Spec):
        _check(provider, found)
    else:
        start, end = found.span
        assert 0 <= start <= end <= len(text)
        assert found.text == text
        assert found.message in str(found)


def _check(provider: Provider, spec: Spec) -> None:
    text = provider.format(spec)
    assert provider.parse(text) == spec
    assert provider.format(provider.parse(text)) == text
    pinned = provider.pinned(spec, "0" * 40)
    for seen in (spec.repo, spec.ref, pinned.repo_url, pinned.ref, pinned.spec):
        assert not seen.startswith("-")
        assert seen.isprintable()
    flow = provider.resolve(spec)
    try:
        question = next(flow)
    except StopIteration:
        return
    finally:
        flow.close()
    assert question.url.isprintable()
    assert not question.url.startswith("-")
    assert not any(pattern.startswith("-") for pattern in getattr(question, "patterns", ()))


@settings(max_examples=150, deadline=None)
@given(
    prefix=st.sampled_from(["gh", "gitea", "bitbucket"]),
    user=st.from_regex(r"[\w][\w.-]{0,20}", fullmatch=True),
    repo=st.from_regex(r"[\w][\w.-]{0,20}", fullmatch=True),
    ref=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}(/[a-z0-9_][a-z0-9_-]{0,9}){0,3}", fullmatch=True),
)
def test_good_specs_are_parsed(prefix: str, user: str, repo: str, ref: str) -> None:
    spec = ALL[prefix].parse(f"{quote(user)}/{quote(repo)}/{ref}")
    assert spec == Spec(prefix, f"{user}/{repo.removesuffix('.git')}", ref)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(_TEXTS, _TEXTS.map(lambda text: f"https://github.com/{text}")))
def test_any_url_is_recognised_or_not(text: str) -> None:
    found = recognise(text, ALL.values())
    if found is not None:
        provider, pasted = found
        _check(provider, provider.parse(pasted.spec))


@pytest.mark.parametrize(
    ("url", "prefix", "spec", "path"),
    [
        ("https://github.com/user/repo/tree/branch/path", "gh", "user/repo/branch", "path"),
        ("https://github.com/user/repo.git", "gh", "user/repo/HEAD", ""),
        ("https://github.com/user/dataset", "gh", "user/dataset/HEAD", ""),
        ("https://github.com/dataset/repo", "gh", "dataset/repo/HEAD", ""),
        ("https://gist.github.com/u/abc", "gist", "u/abc", ""),
        ("https://gitlab.com/g/p.git", "gl", "g%2Fp/HEAD", ""),
        ("https://codeberg.org/dataset/r", "gitea", "dataset/r/HEAD", ""),
        ("https://bitbucket.org/w/r", "bitbucket", "w/r/HEAD", ""),
        ("https://host.example/r.git", "git", "https%3A%2F%2Fhost.example%2Fr.git/HEAD", ""),
        ("https://doi.org/10.5281/zenodo.1", "zenodo", "10.5281/zenodo.1", ""),
        ("https://doi.org/10.6084/m9.figshare.1", "figshare", "10.6084/m9.figshare.1", ""),
        ("https://doi.org/10.7910/DVN/X", "dataverse", "10.7910/DVN/X", ""),
        (f"https://doi.org/10.4211/hs.{'a' * 32}", "hydroshare", "a" * 32, ""),
        (
            "https://demo.ckan.org/dataset/x",
            "ckan",
            "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fx",
            "",
        ),
        (f"swh:1:rev:{'a' * 40}", "swh", f"swh:1:rev:{'a' * 40}", ""),
    ],
)
def test_a_pasted_url_finds_its_provider(url: str, prefix: str, spec: str, path: str) -> None:
    # Whatever the order in which an operator names them.
    for providers in (list(ALL.values()), list(reversed(ALL.values()))):
        found = recognise(url, providers)
        assert found is not None
        provider, pasted = found
        assert (provider.prefix, pasted.spec, pasted.path) == (prefix, spec, path)


def test_what_nobody_knows() -> None:
    for url in ("", "https://example.org/", "gh/user/repo/HEAD", "user/repo", "/tmp/x", "."):
        assert recognise(url, ALL.values()) is None


def test_the_operators_own_host_is_recognised() -> None:
    work = GitLab("work", GitLabSettings(host="gitlab.corp.example"))
    found = recognise("https://gitlab.corp.example/a/b", [*ALL.values(), work])
    assert found is not None
    assert found[0] is work


DOCS = (Path(__file__).parent.parent.parent / "docs" / "providers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("prefix", sorted(PROVIDERS))
def test_the_docs_name_every_provider_and_setting(prefix: str) -> None:
    kind = PROVIDERS[prefix]
    assert f"\n| `{prefix}` |" in DOCS
    for setting in set(kind.Settings.__struct_fields__) - {"name"}:
        assert f"| `{prefix}` | `{setting}` |" in DOCS
    example = DOCS.partition(f"\n| `{prefix}` |")[2].split(" | ")[1].strip("`")
    assert ALL[prefix].parse(example).provider == prefix


def test_every_provider_is_an_entry_point() -> None:
    installed = {point.name: point.load() for point in entry_points(group="binder.providers")}
    assert {prefix: installed.get(prefix) for prefix in PROVIDERS} == PROVIDERS
