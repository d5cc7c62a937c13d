"""Prints what a hub with the configuration for Kubernetes would tell the cluster of a launch.

``python hub_pod.py CONFIG``, run in the hub's environment, a list of user options as JSON on
standard input. The cluster is played: it already has a Secret of that name, left by the pod before.
An option ``faults`` says how it answers before: a status, "broken" or "silent".
"""

import asyncio
import json
import sys
from typing import Any

from aiohttp import ClientConnectionError
from jupyterhub.app import JupyterHub
from jupyterhub.objects import Server
from kubernetes_asyncio.client import ApiClient, ApiException
from tornado.web import HTTPError


class Cluster:
    def __init__(self, faults: list[str]) -> None:
        self.calls: list[Any] = []
        self.there = True
        self._faults = faults

    async def _answer(self) -> None:
        match self._faults and self._faults.pop(0):
            case "silent":
                await asyncio.sleep(3600)
            case "broken":
                raise ClientConnectionError
            case str(status):
                raise ApiException(status=int(status))

    async def create_namespaced_secret(self, namespace: str, manifest: dict[str, Any]) -> None:
        self.calls.append(["create", namespace, manifest])
        await self._answer()
        if self.there:
            raise ApiException(status=409)

    async def delete_namespaced_secret(self, name: str, namespace: str) -> None:
        self.calls.append(["delete", namespace, name])
        await self._answer()
        self.there = False


async def told(app: JupyterHub, options: dict[str, Any]) -> dict[str, Any]:
    faults = options.pop("faults", [])
    spawner = app.spawner_class(_mock=True, config=app.config, user_options=options)
    spawner._server = Server(base_url="/user/ada/")
    spawner.namespace = "binder"
    spawner.api = cluster = Cluster(faults)
    spawner.k8s_api_request_timeout = 1
    try:
        spawner._take_options()  # what `start` does first; the rest of it needs a cluster
    except HTTPError as error:
        return {"refused": error.jupyterhub_message}
    pod = await spawner.get_pod_manifest()
    heard: list[str] = []
    spawner.after_pod_created_hook = lambda _, pod: heard.append(pod["metadata"]["uid"])
    spawner._with_secret()
    spawner._with_secret()
    there = {"metadata": {"name": pod.metadata.name, "uid": "a-uid"}}
    failed = 0
    try:
        await spawner.after_pod_created_hook(spawner, there)
    except ApiException as error:
        failed = error.status
    manifest = ApiClient().sanitize_for_serialization(pod)
    return {"pod": manifest, "calls": cluster.calls, "heard": heard, "failed": failed}


async def main() -> None:
    app = JupyterHub()
    app.load_config_file(sys.argv[1])
    print(json.dumps([await told(app, options) for options in json.load(sys.stdin)]))


asyncio.run(main())
