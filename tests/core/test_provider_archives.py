"""Archives and catalogues: Zenodo, Figshare, HydroShare, Dataverse, CKAN, Software Heritage."""

from __future__ import annotations

from typing import ClassVar

import pytest
from recorded import reply, step

from binder_core.plugin import (
    HttpGet,
    HttpReply,
    Pasted,
    Provider,
    ProviderUnavailable,
    RefNotFound,
    Resolved,
    SpecError,
)
from binder_core.providers.ckan import Ckan, CkanSettings
from binder_core.providers.dataverse import Dataverse, DataverseSettings
from binder_core.providers.figshare import Figshare, FigshareSettings
from binder_core.providers.hydroshare import Hydroshare, HydroshareSettings
from binder_core.providers.softwareheritage import SoftwareHeritage, SoftwareHeritageSettings
from binder_core.providers.zenodo import Zenodo, ZenodoSettings
from binder_core.testing.providers import Dialogue, ProviderSuite

BAD_DOIS = (
    "",
    "10.5281",
    "10.5281/",
    "zenodo.3242074",
    "11.5281/zenodo.3242074",
    "10.5281/../x",
    "10.5281/a//b",
    "10.5281/-x",
    "10.5281/a%20b",
    "10.5281/a?b",
    "10.5281/ä",
    "https://evil.example/10.5281/zenodo.1",
)

ZENODO_HOSTS = ("zenodo.org", "*.zenodo.org", "data.caltech.edu")


def on_zenodo(doi: str, record: str) -> Resolved:
    return Resolved(
        provider="zenodo",
        spec=doi,
        repo_url=doi,
        ref=record,
        ref_url=f"https://doi.org/{doi}",
        slug=f"zenodo-{record}",
        content_provider="Zenodo",
    )


def by_doi(doi: str, hosts: tuple[str, ...]) -> tuple[HttpGet, HttpReply]:
    return step(f"https://doi.org/{doi}", hosts=hosts)


class TestZenodo(ProviderSuite):
    specs = (
        "10.5281/zenodo.3242074",
        "10.5281%2Fzenodo.3242074",
        "doi:10.5281/zenodo.3242074",
        "https%3A%2F%2Fdoi.org%2F10.5281%2Fzenodo.3242074",
        "10.22002/D1.1235",
    )
    bad_specs = BAD_DOIS
    dialogues = (
        Dialogue(
            "10.5281/zenodo.3242074",
            [by_doi("10.5281/zenodo.3242074", ZENODO_HOSTS)],
            on_zenodo("10.5281/zenodo.3242074", "3242074"),
        ),
        # The DOI of all versions.
        Dialogue(
            "10.5281/zenodo.3242073",
            [by_doi("10.5281/zenodo.3242073", ZENODO_HOSTS)],
            on_zenodo("10.5281/zenodo.3242074", "3242074"),
        ),
        Dialogue(
            "10.22002/D1.1235",
            [by_doi("10.22002/D1.1235", ZENODO_HOSTS)],
            on_zenodo("10.22002/D1.1235", "1235"),
        ),
        Dialogue("10.5281/zenodo.0", [by_doi("10.5281/zenodo.0", ZENODO_HOSTS)], RefNotFound),
    )
    pasted: ClassVar = {
        "https://doi.org/10.5281/zenodo.3242074": Pasted("10.5281/zenodo.3242074"),
        "https://dx.doi.org/10.5281/zenodo.3242074": Pasted("10.5281/zenodo.3242074"),
        "https://zenodo.org/record/3242074": Pasted("10.5281/zenodo.3242074"),
        "https://zenodo.org/records/3242074?preview=1": Pasted("10.5281/zenodo.3242074"),
        "https://zenodo.org/doi/10.5281/zenodo.3242074": Pasted("10.5281/zenodo.3242074"),
        "https://zenodo.org/communities/x": None,
        "https://doi.org/10.6084/m9.figshare.9782777": None,
    }

    def make_provider(self) -> Provider:
        return Zenodo("zenodo", ZenodoSettings())


def test_where_the_recorded_page_of_zenodo_is() -> None:
    # That the page is there, and where, is all that counts: its text is not read.
    page = reply("https://zenodo.org/record/3242074")
    provider = Zenodo("zenodo", ZenodoSettings())
    flow = provider.resolve(provider.parse("10.5281/zenodo.3242074"))
    next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(page)
    assert stop.value.value == on_zenodo("10.5281/zenodo.3242074", "3242074")


@pytest.mark.parametrize(
    "url", ["https://zenodo.org/", "https://doi.org/x", "https://zenodo.org/-"]
)
def test_a_doi_that_leads_to_no_record(url: str) -> None:
    provider = Zenodo("zenodo", ZenodoSettings())
    flow = provider.resolve(provider.parse("10.5281/zenodo.1"))
    next(flow)
    with pytest.raises(ProviderUnavailable):
        flow.send(HttpReply(200, url))


def on_figshare(version: int) -> Resolved:
    return Resolved(
        provider="figshare",
        spec=f"10.6084/m9.figshare.9782777.v{version}",
        repo_url=f"10.6084/m9.figshare.9782777.v{version}",
        ref=f"9782777.v{version}",
        ref_url=f"https://doi.org/10.6084/m9.figshare.9782777.v{version}",
        slug=f"figshare-9782777.v{version}",
        content_provider="Figshare",
    )


class TestFigshare(ProviderSuite):
    specs = ("10.6084/m9.figshare.9782777.v1", "10.6084/m9.figshare.9782777")
    bad_specs = (*BAD_DOIS, "10.6084/m9.figshare.x", "10.6084/m9.figshare.1.v")
    dialogues = (
        Dialogue("10.6084/m9.figshare.9782777.v1", [], on_figshare(1)),
        Dialogue(
            "10.6084/m9.figshare.9782777",
            [step("https://api.figshare.com/v2/articles/9782777/versions")],
            on_figshare(3),
        ),
        Dialogue(
            "10.6084/m9.figshare.1",
            [step("https://api.figshare.com/v2/articles/1/versions")],
            RefNotFound,
        ),
    )
    pasted: ClassVar = {
        "https://doi.org/10.6084/m9.figshare.9782777.v1": Pasted("10.6084/m9.figshare.9782777.v1"),
        "https://figshare.com/articles/code/binder-examples/9782777": Pasted(
            "10.6084/m9.figshare.9782777"
        ),
        "https://figshare.com/articles/code/binder-examples/9782777/2": Pasted(
            "10.6084/m9.figshare.9782777.v2"
        ),
        "https://figshare.com/browse": None,
        "https://doi.org/10.5281/zenodo.3242074": None,
    }

    def make_provider(self) -> Provider:
        return Figshare("figshare", FigshareSettings())


RESOURCE = "142c59757ed54de1816777828c9716e7"
_HYDRO = "https://www.hydroshare.org/hsapi/resource"


class TestHydroshare(ProviderSuite):
    specs = (
        RESOURCE,
        f"https%3A%2F%2Fwww.hydroshare.org%2Fresource%2F{RESOURCE}",
        f"https%3a%2f%2fwww.hydroshare.org%2fresource%2f{RESOURCE}%2f",
        f"10.4211/hs.{RESOURCE}",
    )
    bad_specs = ("", "142c59757ed54de18167", "x" * 32, f"{RESOURCE}\n", f"-{RESOURCE}")
    dialogues = (
        *(
            Dialogue(
                text,
                [step(f"{_HYDRO}/{RESOURCE}/scimeta/elements")],
                Resolved(
                    provider="hydroshare",
                    spec=RESOURCE,
                    repo_url=f"https://www.hydroshare.org/resource/{RESOURCE}",
                    ref=f"{RESOURCE}.v1546560019",
                    ref_url=f"https://www.hydroshare.org/resource/{RESOURCE}",
                    slug=f"hydroshare-{RESOURCE}.v1546560019",
                    content_provider="Hydroshare",
                ),
            )
            for text in specs
        ),
        Dialogue("0" * 32, [step(f"{_HYDRO}/{'0' * 32}/scimeta/elements")], RefNotFound),
        Dialogue(
            RESOURCE,
            [
                (
                    HttpGet(f"{_HYDRO}/{RESOURCE}/scimeta/elements"),
                    HttpReply(200, "", {}, b'{"dates": [{"type": "modified", "start_date": "?"}]}'),
                )
            ],
            ProviderUnavailable,
        ),
        Dialogue(
            RESOURCE,
            [
                (
                    HttpGet(f"{_HYDRO}/{RESOURCE}/scimeta/elements"),
                    HttpReply(200, "", {}, b'{"dates": []}'),
                )
            ],
            ProviderUnavailable,
        ),
    )
    pasted: ClassVar = {
        f"https://www.hydroshare.org/resource/{RESOURCE}/": Pasted(RESOURCE),
        f"https://doi.org/10.4211/hs.{RESOURCE}": Pasted(RESOURCE),
        "https://www.hydroshare.org/search": None,
        f"https://example.org/resource/{RESOURCE}": None,
    }

    def make_provider(self) -> Provider:
        return Hydroshare("hydroshare", HydroshareSettings())


DATASET = "10.7910/DVN/TJCLKP"


class TestDataverse(ProviderSuite):
    specs = (DATASET, "doi:10.7910/DVN/TJCLKP", "10.18419%2Fdarus-1234")
    bad_specs = BAD_DOIS
    dialogues = (
        Dialogue(
            DATASET,
            [
                by_doi(DATASET, ("*",)),
                step(
                    "https://dataverse.harvard.edu/api/datasets/:persistentId"
                    f"?persistentId=doi:{DATASET}"
                ),
            ],
            Resolved(
                provider="dataverse",
                spec=DATASET,
                repo_url=DATASET,
                ref="3035124.v3.2",
                ref_url=f"https://doi.org/{DATASET}",
                slug="dataverse-dvn-2ftjclkp",
                content_provider="Dataverse",
            ),
        ),
        Dialogue("10.7910/DVN/NOSUCH", [by_doi("10.7910/DVN/NOSUCH", ("*",))], RefNotFound),
        Dialogue(
            DATASET,
            [
                by_doi(DATASET, ("*",)),
                (
                    HttpGet(
                        "https://dataverse.harvard.edu/api/datasets/:persistentId"
                        f"?persistentId=doi:{DATASET}"
                    ),
                    HttpReply(200, "", {}, b"<html>"),
                ),
            ],
            ProviderUnavailable,
        ),
    )
    pasted: ClassVar = {
        f"https://dataverse.harvard.edu/dataset.xhtml?persistentId=doi:{DATASET}": Pasted(DATASET),
        f"https://dataverse.harvard.edu/citation?persistentId=doi:{DATASET}": Pasted(DATASET),
        f"https://doi.org/{DATASET}": Pasted(DATASET),
        "https://doi.org/10.5281/zenodo.3242074": None,
        "https://dataverse.harvard.edu/dataverse/x": None,
    }

    def make_provider(self) -> Provider:
        return Dataverse("dataverse", DataverseSettings())


SAMPLE = "https://demo.ckan.org/dataset/sample-dataset-1"
TURTLES = "https://data.depositar.io/dataset/binder-example-sea-turtle-sightings-in-taiwan"
ACTIVITY = "93df7fd0-0edc-4ebf-bac7-fbf5f78de90b"


def escaped(url: str) -> str:
    return url.replace(":", "%3A").replace("/", "%2F").replace("?", "%3F").replace("=", "%3D")


def on_ckan(url: str, ref: str) -> Resolved:
    return Resolved(
        provider="ckan",
        spec=escaped(url),
        repo_url=url,
        ref=ref,
        ref_url=url,
        slug=f"ckan-{ref.rpartition('.v')[0]}",
        content_provider="CKAN",
    )


class TestCkan(ProviderSuite):
    specs = (escaped(SAMPLE), escaped(f"{TURTLES}/?activity_id={ACTIVITY}"))
    bad_specs = (
        "",
        "x",
        escaped("https://demo.ckan.org/group/roger"),
        escaped("https://demo.ckan.org/dataset/"),
        escaped("https://demo.ckan.org/a/../dataset/x"),
        escaped("ftp://demo.ckan.org/dataset/x"),
        escaped("https://u@demo.ckan.org/dataset/x"),
        escaped("https:///dataset/x"),
        escaped("https://-demo/dataset/x"),
        "https%3A%2F%2F%5Bx%2Fdataset%2Fx",
    )
    dialogues = (
        Dialogue(
            escaped(SAMPLE),
            [step("https://demo.ckan.org/api/3/action/package_show?id=sample-dataset-1")],
            on_ckan(SAMPLE, "sample-dataset-1.v1710235511"),
        ),
        *(
            Dialogue(
                escaped(url),
                [
                    step(
                        "https://data.depositar.io/api/3/action/activity_data_show"
                        f"?id={ACTIVITY}&object_type=package"
                    )
                ],
                on_ckan(url, f"{TURTLES.rpartition('/')[2]}.v1712023831"),
            )
            for url in (f"{TURTLES}/?activity_id={ACTIVITY}", f"{TURTLES}/history/{ACTIVITY}")
        ),
        Dialogue(
            escaped("https://demo.ckan.org/dataset/nosuchdataset"),
            [step("https://demo.ckan.org/api/3/action/package_show?id=nosuchdataset")],
            RefNotFound,
        ),
    )
    pasted: ClassVar = {
        SAMPLE: Pasted(escaped(SAMPLE)),
        f"{TURTLES}/history/{ACTIVITY}": Pasted(escaped(f"{TURTLES}/history/{ACTIVITY}")),
        "https://demo.ckan.org/organization/x": None,
        "demo.ckan.org/dataset/x": None,
    }

    def make_provider(self) -> Provider:
        return Ckan("ckan", CkanSettings())


def test_an_operator_says_which_catalogues() -> None:
    provider = Ckan("ckan", CkanSettings(hosts=("demo.ckan.org",)))
    assert provider.parse(escaped(SAMPLE)).repo == SAMPLE
    with pytest.raises(SpecError, match="not allowed"):
        provider.parse(escaped(TURTLES))


REV, DIR = "94dca98c006b80309704c717b5d83dff3c1fa3a0", "3b2cb7ee6d5c0cbf37b1d4a2a9f8ab5bba5d7b5e"
REL, SNP = "208f61cc7a5dbc9879ae6e5c2f95891e270f09ef", "6a3a2cf0b2b90ce7ae1cf0a221ed68035b686f5a"
_SWH = "https://archive.softwareheritage.org/api/1"

ARCHIVED = Resolved(
    provider="swh",
    spec=f"swh:1:dir:{DIR}",
    repo_url=f"swh:1:dir:{DIR}",
    ref=DIR,
    ref_url=f"https://archive.softwareheritage.org/swh:1:dir:{DIR}",
    slug=f"swh-{DIR}",
    content_provider="Swhid",
)


class TestSoftwareHeritage(ProviderSuite):
    specs = (
        f"swh:1:rev:{REV}",
        f"swh%3A1%3Adir%3A{DIR}",
        f"swh:1:dir:{DIR};origin=https:%2F%2Fhost.example%2Fx;path=%2Fa",
    )
    bad_specs = (
        "",
        "swh:1:rev:94dca98",
        f"swh:2:rev:{REV}",
        f"swh:1:cnt:{REV}",
        f"swh:1:rev:{REV.upper()}",
        REV,
        "-swh",
    )
    dialogues = (
        Dialogue(f"swh:1:rev:{REV}", [step(f"{_SWH}/revision/{REV}/")], ARCHIVED),
        Dialogue(f"swh:1:dir:{DIR}", [step(f"{_SWH}/resolve/swh:1:dir:{DIR}/")], ARCHIVED),
        Dialogue(
            f"swh:1:rel:{REL}",
            [step(f"{_SWH}/release/{REL}/"), step(f"{_SWH}/revision/{REV}/")],
            ARCHIVED,
        ),
        Dialogue(
            f"swh:1:snp:{SNP}",
            [step(f"{_SWH}/snapshot/{SNP}/"), step(f"{_SWH}/revision/{REV}/")],
            ARCHIVED,
        ),
        Dialogue(
            "swh:1:snp:cabcc7d7bf639bbe1cc3b41989e1806618dd5764",
            [step(f"{_SWH}/snapshot/cabcc7d7bf639bbe1cc3b41989e1806618dd5764/")],
            RefNotFound,
        ),
        Dialogue(f"swh:1:rev:{'0' * 40}", [step(f"{_SWH}/revision/{'0' * 40}/")], RefNotFound),
        Dialogue(
            f"swh:1:rev:{'1' * 40}", [step(f"{_SWH}/revision/{'1' * 40}/")], ProviderUnavailable
        ),
        # A release of a release of a release…
        Dialogue(
            f"swh:1:rel:{'a' * 40}",
            [
                (
                    HttpGet(f"{_SWH}/release/{'a' * 40}/"),
                    HttpReply(
                        200, "", {}, b'{"target_type": "release", "target": "%s"}' % (b"a" * 40)
                    ),
                )
            ]
            * 10,
            RefNotFound,
        ),
        # One of a single file.
        Dialogue(
            f"swh:1:rel:{'b' * 40}",
            [
                (
                    HttpGet(f"{_SWH}/release/{'b' * 40}/"),
                    HttpReply(
                        200, "", {}, b'{"target_type": "content", "target": "%s"}' % (b"a" * 40)
                    ),
                )
            ],
            RefNotFound,
        ),
    )
    pasted: ClassVar = {
        f"swh:1:rev:{REV}": Pasted(f"swh:1:rev:{REV}"),
        f"https://archive.softwareheritage.org/swh:1:dir:{DIR};path=/a/b.ipynb": Pasted(
            f"swh:1:dir:{DIR}", "a/b.ipynb"
        ),
        f"https://archive.softwareheritage.org/browse/revision/{REV}/?path=a": Pasted(
            f"swh:1:rev:{REV}", "a"
        ),
        f"https://archive.softwareheritage.org/browse/content/{REV}/": None,
        "https://archive.softwareheritage.org/browse/search/": None,
        f"https://example.org/swh:1:dir:{DIR}": None,
    }

    def make_provider(self) -> Provider:
        return SoftwareHeritage("swh", SoftwareHeritageSettings())
