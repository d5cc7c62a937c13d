"""A real Kubernetes cluster of one node: API server, kubelet, pods, logs, services.

It has no name service of its own and enforces no network policies.
For a cluster to work with beside the tests: `PYTHONPATH=tests python -m engines.kubernetes FILE`.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from engines.docker import DockerEngine
from engines.kubernetes_build import programs
from engines.kubernetes_worker import SOCKET, Worker
from engines.network import run
from engines.processes import cache_folder, one_of, until
from engines.registry import Registry

NODE_LOST_AFTER = 20
"""Seconds without a word from a node after which the control plane holds it for lost."""

_API, _MANAGER, _SCHEDULER = "kube-apiserver", "kube-controller-manager", "kube-scheduler"
_PORT = 6443
_ETCD = "http://127.0.0.1:2379"
_NODE = "node"


class Cluster:
    """A cluster, whoever runs it.

    Args:
        kubeconfig: How to reach it, as one who may do everything.
        kubectl: Kubernetes' command.
    """

    def __init__(self, kubeconfig: Path, *, kubectl: str = "kubectl") -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    def kubectl(self, *arguments: str, given: object = None, timeout: float = 120) -> str:
        """Run Kubernetes' command and return what it prints.

        Args:
            *arguments: Its arguments.
            given: An object for its standard input, for ``--filename=-``.
            timeout: In seconds.

        Raises:
            AssertionError: It failed; with what it said.
        """
        done = subprocess.run(
            [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=json.dumps(given) if given is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = (done.stdout + done.stderr)[-5000:]
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {said}"
        return done.stdout

    def get(self, *what: str) -> Any:
        """Return what ``kubectl get`` says of something, None if it is not there."""
        said = self.kubectl("get", *what, "--output=json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """Make a namespace and give its name; in the end it is removed with all that is in it."""
        name = f"test-{uuid4().hex[:10]}"
        self.kubectl("create", "namespace", name)
        try:
            # A pod cannot be made before its account is there.
            until(
                lambda: self.get("serviceaccount/default", f"--namespace={name}") is not None,
                "the namespace has no service account",
                seconds=60,
            )
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


class KubernetesCluster(Cluster):
    """A cluster of the tests' own; a context that starts and stops it.

    Args:
        folder: Where its images are, kept from session to session. It belongs to one cluster at a
            time: see `processes.one_of`.
        programs: Where Kubernetes' programs are: see `kubernetes_build`.
        number: Tells those of one machine apart that are started at the same moment.
    """

    def __init__(self, folder: Path, programs: Path, *, number: int = 0) -> None:
        self.worker = Worker(folder, name=_NODE, number=number)
        self.node = self.worker.node
        self.engine = self.worker.engine
        """Its pods' engine. What a pod runs is an image there, or in a registry at `outside`."""
        super().__init__(self.node.folder / "kubeconfig", kubectl=str(programs / "kubectl"))
        self.programs = programs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_hex(16)

    @property
    def outside(self) -> str:
        """Return this machine's address for pods. Registries there may speak plain HTTP."""
        return str(self.engine.bridge.outside.ip)

    @property
    def server(self) -> str:
        """Return the address of the API server."""
        return f"https://{self.engine.bridge.address}:{_PORT}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until a pod can be made.

        Raises:
            AssertionError: A part does not start; with the end of its log.
        """
        self.stop()
        try:
            self.worker.start()
            self._prepare()
            self.run("etcd")
            self.run(_API)
            for name in (_MANAGER, _SCHEDULER, "kubelet", "kube-proxy"):
                self.run(name)
            until(self._serves_pods, "the cluster has no node that is ready", seconds=120)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it: nothing is left but its folder. Also what a session left that was killed."""
        for name in reversed(list(self._running)):
            self.kill(name)
        self.worker.stop()

    def left_behind(self) -> list[str]:
        """Return what should not be there when it is stopped."""
        return self.worker.left_behind()

    def is_ready(self, name: str = _NODE) -> bool:
        """Return whether a node takes pods."""
        node = self.get(f"node/{name}")
        conditions = node["status"].get("conditions", []) if node else []
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)

    def kill(self, name: str) -> None:
        """Kill one of its programs, such as ``kubelet``, as when it crashes. See `run`."""
        process = self._running.pop(name)
        process.kill()
        process.wait(timeout=30)

    def run(self, name: str) -> None:
        """Start one of its programs again after `kill`; of the API server wait until it serves."""
        log = self.node.folder / f"{name}.log"
        with log.open("ab") as output:
            self._running[name] = subprocess.Popen(
                [*self.node.within, *self._command(name)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.node.folder,
            )
        if name == _API:
            until(self._serves, f"the API server does not serve, see {log}", seconds=60)

    def restart_api_server(self) -> None:
        """Kill the API server and start it again: it forgets what it had told its watchers."""
        self.kill(_API)
        self.run(_API)

    def compact_etcd(self) -> int:
        """Forget all past versions: who watches on from one gets 410. Return the revision kept.

        The API server remembers the last versions itself, so it is restarted.
        """
        self.kill(_API)
        status = self._etcd("/v3/maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": revision, "physical": True})
        self.run(_API)
        return revision

    @contextmanager
    def cut(self, client: str | None = None) -> Iterator[None]:
        """Lose what a client and the API server send each other: nothing is refused or closed.

        Args:
            client: The address of a pod; by default clients on this machine, outside the cluster.
        """
        address = client or self.outside
        rules = [
            ("INPUT", "--source", address, "--protocol", "tcp", "--dport", str(_PORT)),
            ("OUTPUT", "--destination", address, "--protocol", "tcp", "--sport", str(_PORT)),
        ]
        table = (*self.node.within, "iptables", "--wait", "30")
        done = []
        try:
            for chain, *rule in rules:
                run(*table, "--insert", chain, *rule, "--jump", "DROP")
                done.append((chain, *rule))
            yield
        finally:
            for chain, *rule in done:
                run(*table, "--delete", chain, *rule, "--jump", "DROP")

    def load(self, image: str, engine: DockerEngine) -> str:
        """See to it that the cluster's engine has an image of another one. Return its name."""
        return self.worker.load(image, engine)

    def requests(self, agent: str) -> list[dict[str, Any]]:
        """Return the API server's record of each request that a program has made.

        Args:
            agent: What its ``User-Agent`` begins with.
        """
        lines = (self.node.folder / "audit.log").read_text().splitlines()
        # The last one may be half written.
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in records if record.get("userAgent", "").startswith(agent)]

    def _prepare(self) -> None:
        """Write the keys and settings of all its programs."""
        folder = self.node.folder
        key = folder / "accounts.key"
        run("openssl", "genrsa", "-out", str(key), "2048")
        self._secret("tokens.csv", f'{self._token},admin,admin,"system:masters"\n')
        self._secret(
            "kubeconfig",
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "tests",
                    "clusters": [
                        {
                            "name": "tests",
                            "cluster": {
                                "server": self.server,
                                # The API server makes it as it starts.
                                "certificate-authority": str(folder / "api" / "apiserver.crt"),
                            },
                        }
                    ],
                    "users": [{"name": "admin", "user": {"token": self._token}}],
                    "contexts": [
                        {"name": "tests", "context": {"cluster": "tests", "user": "admin"}}
                    ],
                }
            ),
        )
        self._secret(
            "audit.json",
            json.dumps(
                {
                    "apiVersion": "audit.k8s.io/v1",
                    "kind": "Policy",
                    # A watch is a record as it begins, anything else as it ends.
                    "omitStages": ["RequestReceived"],
                    "rules": [{"level": "Metadata"}],
                }
            ),
        )

    def _secret(self, name: str, content: str) -> None:
        path = self.node.folder / name
        path.touch(mode=0o600)
        path.write_text(content)

    def _command(self, name: str) -> list[str]:
        """Return the command of a program."""
        if name == "kubelet":
            return self.worker.kubelet(self.programs, self.kubeconfig)
        folder, bridge = self.node.folder, self.engine.bridge
        client = f"--kubeconfig={self.kubeconfig}"
        key = folder / "accounts.key"
        options = {
            "etcd": [
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={_ETCD}",
                f"--advertise-client-urls={_ETCD}",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
            _API: [
                f"--etcd-servers={_ETCD}",
                f"--advertise-address={bridge.address}",
                f"--bind-address={bridge.address}",
                f"--secure-port={_PORT}",
                f"--cert-dir={folder / 'api'}",
                f"--service-cluster-ip-range={bridge.services}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--api-audiences=https://kubernetes.default.svc",
                "--allow-privileged",
                "--kubelet-preferred-address-types=InternalIP",
                f"--audit-policy-file={folder / 'audit.json'}",
                f"--audit-log-path={folder / 'audit.log'}",
            ],
            _MANAGER: [
                client,
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={folder / 'api' / 'apiserver.crt'}",
                f"--cert-dir={folder / 'manager'}",
                "--leader-elect=false",
                # Half of what is usual: nobody wants to wait for it.
                f"--node-monitor-grace-period={NODE_LOST_AFTER}s",
            ],
            _SCHEDULER: [client, f"--cert-dir={folder / 'scheduler'}", "--leader-elect=false"],
            "kube-proxy": [
                client,
                f"--hostname-override={_NODE}",
                "--proxy-mode=iptables",
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
            ],
        }
        program = "/usr/bin/etcd" if name == "etcd" else str(self.programs / name)
        return [program, *options[name]]

    def _ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def _check_alive(self) -> None:
        for name, process in self._running.items():
            status = process.poll()
            log = self.node.folder / f"{name}.log"
            said = "" if status is None else log.read_text(errors="replace")[-5000:]
            assert status is None, f"{name} ended with {status}:\n{said}"

    def _serves(self) -> bool:
        self._check_alive()
        certificate = self.node.folder / "api" / "apiserver.crt"
        if not certificate.exists():
            return False
        try:
            answer = httpx.get(
                f"{self.server}/readyz",
                headers={"authorization": f"Bearer {self._token}"},
                verify=False,
                trust_env=False,
                timeout=5,
            )
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def _serves_pods(self) -> bool:
        self._check_alive()
        return self.is_ready() and self.get("serviceaccount/default") is not None

    def _etcd(self, path: str, body: dict[str, object]) -> Any:
        """Ask etcd, which listens on the node alone."""
        said = run(
            *(*self.node.within, sys.executable, "-c", _ASK_ETCD),
            *(_ETCD + path, json.dumps(body)),
        )
        return json.loads(said)


_ASK_ETCD = """\
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(request, timeout=30).read().decode())
"""


def cluster_folders(sessions: int = 8) -> list[Path]:
    """Return the folders for clusters of sessions at the same time, the first to be taken first."""
    return [cache_folder() / f"kubernetes-{number}" for number in range(sessions)]


def main() -> None:
    """Run a cluster with a registry until this is interrupted."""
    kubeconfig = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folders = cluster_folders()
    with ExitStack() as stack:
        folder = stack.enter_context(one_of(folders))
        built = programs(cache_folder())
        number = 8 + folders.index(folder)
        cluster = stack.enter_context(KubernetesCluster(folder, built, number=number))
        content = cluster.node.folder / "registry"
        registry = stack.enter_context(Registry(content, host=cluster.outside))
        stack.callback(kubeconfig.unlink, missing_ok=True)
        kubeconfig.unlink(missing_ok=True)
        kubeconfig.symlink_to(cluster.kubeconfig)
        print(f"KUBECONFIG={kubeconfig}\nBINDERKIT_REGISTRY={registry.address}")
        print(f"BINDERKIT_DOCKER_SOCKET={SOCKET}\nDOCKER_HOST={cluster.engine.host}")
        print(f"This machine is {cluster.outside} there.", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
