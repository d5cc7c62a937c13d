"""What deploy/kubernetes says, held against what the server needs and takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from binder_backends.kubernetes import KubernetesSettings
from binder_backends.kubernetes.builder import NEEDED
from binder_backends.kubernetes.manifest import MANAGED
from binder_http.app import PATHS
from binder_http.config import load

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
FOLDERS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
FILES = {"resources", "patchesStrategicMerge"}
SECRETS = {
    "BINDER_SECURITY__KEY": "a" * 32,
    "BINDER_SECURITY__OPERATOR_TOKEN": "b" * 32,
    "BINDER_LAUNCHER__JUPYTERHUB__TOKEN": "c" * 32,
}

Object = Mapping[str, Any]


def of(folder: Path) -> Iterator[Object]:
    """Return the objects that stand in the files of a folder."""
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from filter(None, yaml.safe_load_all(path.read_text()))


def one(folder: Path, kind: str, name: str = "binder") -> Any:
    (found,) = (
        each for each in of(folder) if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def kustomization(folder: Path) -> Any:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def granted(role: Object) -> list[tuple[str, str]]:
    return sorted(
        (verb, "/".join(filter(None, (group, resource))))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def pod_templates() -> list[Object]:
    everywhere = [each for folder in FOLDERS for each in of(folder)]
    return [each for each in everywhere if each["kind"] == "Deployment"]


def test_the_role_grants_what_the_builder_needs_and_nothing_else() -> None:
    role = one(BASE, "Role")
    assert granted(role) == sorted(NEEDED)
    assert all(set(rule) == {"apiGroups", "resources", "verbs"} for rule in role["rules"])
    binding = one(BASE, "RoleBinding")
    (account,) = binding["subjects"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert account["name"] == one(BASE, "ServiceAccount")["metadata"]["name"]
    assert (
        account["name"] == one(BASE, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    )


def test_the_docs_name_what_the_role_grants() -> None:
    text = (DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    rows = text.split("## What servers may do", 1)[1].split("\n\n")[2].splitlines()[2:]
    told, resource = [], ""
    for row in rows:
        first, verbs, _ = row.strip("|").split("|", 2)
        resource = first.strip(" `") or resource
        told += [(verb.strip(" `"), resource) for verb in verbs.split(",")]
    assert sorted(told) == sorted(NEEDED)


def test_nothing_is_granted_in_the_whole_cluster() -> None:
    kinds = {each["kind"] for folder in FOLDERS for each in of(folder)}
    assert not {kind for kind in kinds if kind.startswith("Cluster")}


@pytest.mark.parametrize("deployment", pod_templates(), ids=lambda each: each["metadata"]["name"])
def test_pods_may_do_as_little_as_possible(deployment: Object) -> None:
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in spec["containers"]:
        may = container["securityContext"]
        assert may["readOnlyRootFilesystem"]
        assert may["allowPrivilegeEscalation"] is False
        assert may["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} == set(container["resources"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["tmp"] == "/tmp"
        assert set(mounts) == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("deployment", pod_templates(), ids=lambda each: each["metadata"]["name"])
def test_selectors_find_their_pods_and_no_build(deployment: Object) -> None:
    folder = next(folder for folder in FOLDERS if deployment in list(of(folder)))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = one(folder, "Service", deployment["metadata"]["name"])
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector.items() <= labels.items()
    assert not MANAGED.items() <= labels.items()
    ports = {
        port["name"]
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_probes_ask_what_there_is() -> None:
    (container,) = one(BASE, "Deployment")["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert {probe["path"] for probe in probes.values()} <= set(PATHS)
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    # Whatever names security.hosts knows, this is one.
    assert all(
        {"name": "Host", "value": "localhost"} in each["httpHeaders"] for each in probes.values()
    )
    # What all servers share must not take all of them away.
    assert probes["readiness"]["path"] != "/health" != probes["liveness"]["path"]


def test_builds_have_a_network_policy_of_their_own() -> None:
    policy = one(BASE, "NetworkPolicy", "binder-builds")["spec"]
    assert policy["podSelector"] == {"matchLabels": MANAGED}
    assert "Ingress" in policy["policyTypes"]
    assert "ingress" not in policy


def test_the_budgets_for_old_and_new_clusters_differ_in_their_version_alone() -> None:
    budgets = {
        version: dict(one(KUBERNETES / "pod-disruption-budget" / version, "PodDisruptionBudget"))
        for version in ("v1", "v1beta1")
    }
    for version, budget in budgets.items():
        assert budget.pop("apiVersion") == f"policy/{version}"
    assert budgets["v1"] == budgets["v1beta1"]
    labels = one(BASE, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert budgets["v1"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_configurations_are_valid(folder: Path) -> None:
    config = load(folder / "binder.toml", env=SECRETS)
    assert config.server.host == "0.0.0.0"
    assert isinstance(config.builder.settings, KubernetesSettings)
    # Any server may be asked, and records would be in a file of each.
    assert not config.protocol.enabled or config.store is not None
    port = one(BASE, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"][0]
    assert port["containerPort"] == config.server.port


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)
def test_overlays_name_the_secrets_that_they_need(overlay: Path) -> None:
    lines = (overlay / "secrets.env.example").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert names <= set(SECRETS)
    config = load(overlay / "binder.toml", env={name: SECRETS[name] for name in names})
    assert config.security.key == SECRETS["BINDER_SECURITY__KEY"]
    used = [each["env"] for each in containers(BASE)]
    needed = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for variables in used
        for variable in variables
        if "valueFrom" in variable
    }
    assert needed <= names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_belongs_to_its_kustomization(folder: Path) -> None:
    said = kustomization(folder)
    named = {name for key in FILES for name in said.get(key, ())}
    assert named == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert all((folder / base / "kustomization.yaml").is_file() for base in said.get("bases", ()))


def containers(folder: Path) -> list[Object]:
    deployments = [each for each in of(folder) if each["kind"] == "Deployment"]
    found: list[Object] = []
    for deployment in deployments:
        found += deployment["spec"]["template"]["spec"]["containers"]
    return found
