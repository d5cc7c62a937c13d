"""Builds images in pods that have the builds' names."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import ClassVar, Final, Literal, Self

import anyio
import anyio.to_thread
import msgspec

from binder_backends.containers import BuildPlan, plan_build
from binder_backends.kubernetes.cluster import Cluster, Denied, Exists, NotThere, NotYet
from binder_backends.kubernetes.logs import PodLog
from binder_backends.kubernetes.manifest import (
    IMAGE,
    REF,
    REPO,
    Object,
    ending,
    engine_of,
    pod_of,
    secret_of,
    told_of,
)
from binder_backends.kubernetes.pods import Pod, why_it_ended, why_it_failed
from binder_backends.kubernetes.quotas import Quotas
from binder_backends.kubernetes.settings import KubernetesSettings
from binder_backends.kubernetes.watching import Pods
from binder_backends.registry import Registry
from binder_backends.runner import FROM_OUTSIDE
from binder_core.plugin import (
    BackendUnavailable,
    BuildFailed,
    BuildRequest,
    BuildRun,
    Line,
    Plugin,
    Report,
)

log = logging.getLogger("binder.kubernetes")

NEEDED: Final = (
    ("create", "pods"),
    ("delete", "pods"),
    ("get", "pods"),
    ("list", "pods"),
    ("patch", "pods"),
    ("watch", "pods"),
    ("get", "pods/log"),
    ("create", "secrets"),
)
"""All that we do in our namespace, as verb and resource."""

_STOP_WITHIN: Final = 60.0
_WHY_WITHIN: Final = 10.0
_NODE_IS_LATE: Final = 10.0
"""Seconds beyond its time after which a pod that was deleted is not waited for any longer."""
_TIDY_EVERY: Final = 30.0
_KEEP_PENDING: Final = 300.0
"""Seconds for which a pod is kept that was given up before it had a node."""


class KubernetesBuilder(Plugin):
    """Builds images in pods of a cluster.

    The pod's name is the lock, its log the journal: any server finds the build, and goes on with it
    when another one has died.

    Args:
        settings: What the operator set.
    """

    Settings: ClassVar[type[msgspec.Struct]] = KubernetesSettings

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._cluster = Cluster(settings)
        self._pods = Pods(self._cluster, outage=settings.outage)
        self._quotas = Quotas(settings, self._pods)
        self._registry = Registry(settings.registry)
        self._stack = AsyncExitStack()
        self._version = ""

    async def __aenter__(self) -> Self:
        """Connect, and begin to watch the builds of the namespace.

        Raises:
            BackendUnavailable: There is no cluster, or it does not let us; says what to try.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._cluster)
            await stack.enter_async_context(self._registry)
            await self.check()
            if self._settings.docker_host and not self._settings.docker_certs_secret:
                log.warning(
                    "the engine of builds is spoken to in the clear: whoever reaches it is root on"
                    " its machine, what builds run included; set docker_certs_secret"
                )
            self._version = await self._cluster.version()
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            tasks.start_soon(self._pods.run)
            tasks.start_soon(self._keep_tidy)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go: builds under way go on."""
        await self._stack.__aexit__(None, None, None)

    async def check(self) -> None:
        """Return if the cluster answers and lets us do what we have to.

        Raises:
            BackendUnavailable: It does not; the message names what is missing.
        """
        missing = [
            f"{verb} {resource}"
            for verb, resource in NEEDED
            if not await self._cluster.may(verb, resource)
        ]
        if missing:
            raise BackendUnavailable(
                f"The cluster does not let this server {', '.join(missing)} in the namespace"
                f" {self._cluster.namespace!r}: give its service account the role of"
                " deploy/kubernetes."
            )

    def versions(self) -> Mapping[str, str]:
        """Return the version of the cluster and the image of its build pods."""
        return {"kubernetes": self._version, "builder_image": self._settings.builder_image}

    async def exists(self, image: str) -> bool:
        """Return whether `image` is in its registry."""
        return await self._registry.exists(image)

    async def build(self, request: BuildRequest, report: Report) -> None:
        """Start or find the build; see `binder_core.plugin.Builder.build`."""
        pod = await self._find_or_start(request, report)
        if pod is None:
            return
        pod = await self._until_begun(pod, report)
        report.started(pod.uid)

        def tell(line: Line) -> None:
            report.line(line.n, line.message, phase=line.phase, progress=line.progress)

        outcome = None
        if pod.started:
            outcome = await PodLog(self._cluster, self._pods, pod, tell).outcome()
        pod = await self._pods.look(pod)
        if outcome is not None:
            if outcome.message == FROM_OUTSIDE and not pod.ended:
                pod = await self._pods.until_over(pod, within=_WHY_WITHIN)
            pod = self._pods.said(pod, built=outcome.built)
            if outcome.built:
                return
            # Whoever ended the build says why better than the runner that was ended.
            raise BuildFailed(why_it_failed(pod, outcome.message))
        if not pod.ended and pod.exit_code == 0 and await self.exists(request.image):
            return  # a stock repo2docker's
        if pod.exit_message:
            log.warning("the build %s ended without an outcome: %s", pod.name, pod.exit_message)
        raise BuildFailed(why_it_ended(pod))

    async def stop(self, request: BuildRequest, reason: str) -> None:
        """End the run under way of this name, with all it started."""
        found = await self._cluster.pod(request.name)
        if found is None or (pod := self._pods.learn(found)).over:
            return
        await self._end(pod, reason)
        with anyio.move_on_after(_STOP_WITHIN):
            pod = await self._pods.until(pod, lambda pod: pod.still or pod.over)
            if not pod.still:
                # Its node tells late that a container has ended; the log ends with it.
                with suppress(NotThere, NotYet):
                    async with self._cluster.log(pod.name, follow=True, tail=1) as read:
                        while await read():
                            pass
            return
        raise BackendUnavailable(
            "The build could not be ended: its node does not answer. It will be when it does."
        )

    async def under_way(self) -> Sequence[BuildRun]:
        """Return the runs under way in the namespace, whichever server started them."""
        now = time.time()
        return [
            BuildRun(
                name=pod.name,
                run_id=pod.uid,
                image=pod.annotations.get(IMAGE, ""),
                repo_url=pod.annotations.get(REPO, ""),
                ref=pod.annotations.get(REF, ""),
                seconds=max(0.0, now - pod.created),
            )
            for pod in await self._pods.there()
            if not pod.over
        ]

    # -- A pod's way -------------------------------------------------------------------------

    async def _find_or_start(self, request: BuildRequest, report: Report) -> Pod | None:
        """Return the pod of the run to report, None if there is nothing to report."""
        with self._quotas.turn(request, report) as turn:
            while True:
                found = await self._cluster.pod(request.name)
                if found is not None:
                    pod = self._pods.learn(found)
                    if not pod.over or (
                        pod.uid == request.follow and await self._good(pod, request)
                    ):
                        await self._give_secret(found, request)
                        return pod
                if request.image_exists or await self.exists(request.image):
                    return None
                if not turn.taken and await turn.wait():
                    continue  # much may have happened
                if found is not None:
                    await self._make_way(self._pods.learn(found), report)
                match await self._start(request):
                    case Pod() as started:
                        turn.accepted()
                        return started
                    case "used up":
                        turn.refused()
                        await turn.wait()

    async def _good(self, pod: Pod, request: BuildRequest) -> bool:
        """Return whether what a pod that has ended would tell is still so."""
        return pod.phase != "Succeeded" or await self.exists(request.image)

    async def _start(self, request: BuildRequest) -> Pod | Literal["there", "used up"]:
        """Create the pod, unless somebody else was first or a quota of the cluster is used up."""
        plan = await self._plan(request)
        name = f"{request.name[:50].rstrip('-')}-{secrets.token_hex(5)}"
        try:
            created = await self._cluster.create_pod(pod_of(self._settings, request, plan, name))
        except Exists:
            return "there"
        except Denied as error:
            if error.quota:
                return "used up"
            raise
        pod = self._pods.learn(created)
        try:
            await self._cluster.create_secret(secret_of(created, plan))
        except Denied as error:
            if not error.quota:
                raise
            # Without its files it would wait in vain, and its name would not be free.
            await self._cluster.delete_pod(pod.name, pod.uid, grace=0)
            await self._pods.look(pod)
            return "used up"
        return pod

    async def _plan(self, request: BuildRequest) -> BuildPlan:
        login = await self._registry.push_config(request.image)
        engine = engine_of(self._settings)
        plan = partial(plan_build, self._settings, request, push_config=login, engine=engine)
        return await anyio.to_thread.run_sync(plan)  # it reads files

    async def _give_secret(self, found: Object, request: BuildRequest) -> None:
        """See to it that a pod has its secret: its server may have died between the two."""
        pod = self._pods.learn(found)
        if pod.started or pod.over:
            return
        plan = await self._plan(request)
        if not told_of(request, plan).items() <= pod.annotations.items():
            return  # these are not its files
        try:
            await self._cluster.create_secret(secret_of(found, plan))
        except Denied as error:
            # A quota that is used up is asked first, also about what is there already.
            if not error.quota:
                raise

    async def _make_way(self, pod: Pod, report: Report) -> None:
        """Remove a pod that has ended, so that its name is free."""
        at_once = pod.still or pod.lost
        await self._cluster.delete_pod(pod.name, pod.uid, grace=0 if at_once else None)
        pod = await self._pods.look(pod)
        if not pod.gone:
            report.waiting("An earlier run of this build has to go first.\n")
            # By the cluster's clock, which may not be ours.
            patience = min(max(0.0, pod.gone_by + _NODE_IS_LATE - time.time()), _STOP_WITHIN)
            with anyio.move_on_after(patience):
                await self._pods.until(pod, lambda pod: pod.gone)
                return
            # Its node is as good as lost. When it is back it ends what it runs; if that has sent
            # its image by then, it is as good as the one that is built here.
            await self._cluster.delete_pod(pod.name, pod.uid, grace=0)
        with anyio.move_on_after(_STOP_WITHIN):
            await self._pods.until(pod, lambda pod: pod.gone)
            return
        raise BackendUnavailable("An earlier pod of this build does not go away.")

    async def _until_begun(self, pod: Pod, report: Report) -> Pod:
        """Return the pod when its container has started, or never will."""
        told = ""
        patience = self._settings.pending_timeout - self._pods.known_for(pod)
        with anyio.move_on_after(max(0.0, patience)):
            while True:
                pod = await self._pods.until(pod, partial(_news, told))
                if pod.started or pod.over:
                    return pod
                told = pod.waiting
                if told:
                    report.waiting(f"{told}\n")
        pod = await self._pods.look(pod)  # what is known of it may not be the latest
        if pod.started or pod.over:
            return pod
        why = pod.waiting or self._no_reason(pod)
        reason = f"The build could not begin within {self._settings.pending_timeout:g} s. {why}"
        return await self._end(pod, reason)

    def _no_reason(self, pod: Pod) -> str:
        """Return why a pod may not have begun where the cluster does not say it."""
        if not pod.scheduled:
            return "It was given no node, and the cluster does not say why."
        said = "Its node has not started it, and does not say why"
        if self._settings.docker_host:
            return f"{said}."
        return f"{said}: is builder.kubernetes.docker_socket there, and a socket?"

    async def _end(self, pod: Pod, reason: str) -> Pod:
        """End a pod and keep it, with its log, for those who reconnect."""
        if pod.ended or pod.over:
            return pod
        changed = await self._cluster.patch_pod(pod.name, pod.uid, ending(reason))
        if changed is None:
            return await self._pods.look(pod)
        return self._pods.learn(changed)

    # -- Housekeeping ------------------------------------------------------------------------

    async def _keep_tidy(self) -> None:
        """Remove what ended long ago, whichever server started it."""
        while True:
            try:
                await self._tidy()
            except BackendUnavailable as error:
                log.warning("old build pods could not be removed: %s", error.message)
            except Exception:
                # Whatever it was, nothing would be removed any more.
                log.exception("housekeeping broke; it goes on")
            await anyio.sleep(_TIDY_EVERY)

    async def _tidy(self) -> None:
        settings = self._settings
        for pod in await self._pods.there():
            if pod.over and not pod.deleting:
                # Given up without a node, a pod stays pending as far as the cluster is concerned:
                # it counts, and makes it look for another node.
                pending = pod.phase == "Pending" and not pod.scheduled
                keep = min(settings.keep_builds_for, _KEEP_PENDING if pending else math.inf)
                if time.time() - self._pods.over_since(pod) > keep:
                    await self._cluster.delete_pod(pod.name, pod.uid)
                continue
            waited = 0.0 if pod.started or pod.over else self._pods.known_for(pod)
            if waited > settings.pending_timeout + _STOP_WITHIN:
                # Nobody may be waiting for it any more.
                pod = await self._pods.look(pod)  # noqa: PLW2901 - the same one
                if not pod.started:
                    await self._end(pod, _NEVER_BEGAN)


def _news(told: str, pod: Pod) -> bool:
    return pod.started or pod.over or pod.waiting != told


_NEVER_BEGAN: Final = "The build could not begin in time: no node has started it."
