"""The hub's side: what its spawner needs to start the servers that the launcher asks for.

This module is imported by a hub's ``jupyterhub_config.py``. It needs nothing of ours, and nothing
beside what a hub has::

    from binder_backends.jupyterhub.spawner import DockerBinderMixin
    from dockerspawner import DockerSpawner

    class BinderSpawner(DockerBinderMixin, DockerSpawner):
        pass

    c.JupyterHub.spawner_class = BinderSpawner
    c.BinderMixin.binder_image_prefix = "registry.example.org/binder-"

The launcher sends *user options*: ``image``, ``token``, ``repo_url``, ``ref``, ``idle_timeout``. An
image is started only if the operator has named it or its kind (CVE-2023-48311: whoever may start a
server may send any option). The token is handed to the server as a file: neither its arguments nor
its environment, nor what the engine tells of the container or pod, hold it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import tarfile
import time
from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any, Final

from tornado.web import HTTPError
from traitlets import Bool, Float, Unicode, default, validate
from traitlets.config import Configurable

TOKEN_PATH: Final = "/etc/binder/token"  # noqa: S105 - where it is, not what
"""Where containers have the file of the token."""

# What an image is called: a registry's host, a path, a tag, a digest.
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,511}")
# What Binder itself puts behind its prefix, and nothing else: "binder-" alone is what a registry's
# host, or the name of somebody else's account, may begin with, too.
_OWN: Final = re.compile(r"[a-z0-9-]*-[0-9a-f]{6}:[^/:@\s]+")
_TOKEN: Final = re.compile(r"[!-~]{8,512}")
_LONGEST: Final = 10 * 365 * 86400.0
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{0,4096}")

# This, and `_idle`, the Docker launcher has as well: a test holds them equal.
_START: Final = """\
for program in jupyter-lab jupyter-notebook jupyter-server; do
  if command -v "$program" >/dev/null 2>&1; then exec "$program" "$@"; fi
done
echo "There is no jupyter-lab, jupyter-notebook or jupyter-server in this image." >&2
exit 127"""


class BinderMixin(Configurable):  # type: ignore[misc] # traitlets is the hub's, not ours
    """Starts servers from the images that the launcher names; comes before a spawner's class.

    Of itself it does not hand over the token: see `binder_token_path`.
    """

    binder_image_prefix = Unicode(
        "",
        config=True,
        help="Images that Binder named with this prefix, its builder.image_prefix, may be started.",
    )
    binder_image_pattern = Unicode(
        "",
        config=True,
        help="Images whose whole name matches this regular expression may be started, too.",
    )
    binder_auth = Bool(
        False,
        config=True,
        help="Whether people log in to the hub. Servers are then jupyterhub-singleuser, which the"
        " image needs to have; else whoever has the token may use a server.",
    )
    binder_allow_origin = Unicode(
        "",
        config=True,
        help="The origin whose pages may talk to servers (Thebe, say), * for any; empty: none.",
    )
    binder_idle_timeout = Float(
        3600.0,
        config=True,
        help="Seconds without activity after which a kernel, and then its server, ends itself; 0:"
        " never. Not with binder_auth: the hub's own culler is for that.",
    )

    binder_token_path = TOKEN_PATH
    """Where the server finds the file of its token. Whoever adapts another spawner puts it there
    (`binder_token`) before the server starts."""

    @validate("binder_image_pattern")  # type: ignore[untyped-decorator] # traitlets is the hub's
    def _valid_pattern(self, proposal: dict[str, str]) -> str:
        re.compile(proposal["value"])
        return proposal["value"]

    @default("cmd")  # type: ignore[untyped-decorator] # traitlets is the hub's
    def _default_cmd(self) -> list[str]:
        return ["jupyterhub-singleuser"] if self.binder_auth else ["sh", "-c", _START, "binder"]

    @property
    def binder_token(self) -> str:
        """Return the token that the server shall accept; empty with `binder_auth`."""
        return "" if self.binder_auth else str(self.user_options.get("token", ""))

    def start(self) -> Any:
        """Start the server of the image that was asked for.

        Raises:
            HTTPError: It is not allowed, or the options are none of the launcher's.
        """
        self._take_options()
        return super().start()

    async def check_allowed(self, image: str) -> str:
        """Return the image: DockerSpawner asks, and we know already."""
        return self._allowed(image)

    def get_env(self) -> dict[str, str]:
        """Return the server's environment: what is built, and where its token is."""
        env: dict[str, str] = super().get_env()
        for name in ("repo_url", "ref"):
            if value := self.user_options.get(name):
                env[f"BINDER_{name.upper()}"] = str(value)
        if self.binder_token:
            env["JUPYTER_TOKEN_FILE"] = self.binder_token_path
            # The server does not know of the hub: it needs none of the hub's secrets.
            for name in ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN"):
                env.pop(name, None)
        return env

    def get_args(self) -> list[str]:
        """Return the arguments of the server's command."""
        if self.binder_auth:
            return [*super().get_args(), "--allow-root"]  # of a container whose image says so
        options = {
            "base_url": self.server.base_url,
            "trust_xheaders": True,
            "allow_remote_access": True,  # the hub's proxy is what answers to names
            "allow_root": True,  # of a container whose image says so
        }
        if self.default_url:
            options["default_url"] = self.format_string(self.default_url)
        if self.binder_allow_origin:
            options["allow_origin"] = self.binder_allow_origin
        args = [f"--ip={self.ip or '0.0.0.0'}", f"--port={self.port}", "--no-browser"]  # noqa: S104 - inside a container
        args.append("--ServerApp.port_retries=0")
        for name, value in options.items():
            # Notebook 6 knows only the second.
            args += [f"--ServerApp.{name}={value}", f"--NotebookApp.{name}={value}"]
        return [*args, *_idle(self._idle_timeout()), *self.args]

    def _take_options(self) -> None:
        options = self.user_options or {}
        image = options.get("image")
        if not self.binder_auth and not image:
            raise _refusal("A server is started by Binder only: the user options name no image.")
        if not self.binder_auth and not _is(_TOKEN, options.get("token")):
            raise _refusal("The user options hold no token that a server could have.")
        for name in ("repo_url", "ref"):
            if not _is(_LINE, options.get(name, "")):
                raise _refusal(f"The user option {name} is no line of text.")
        self._idle_timeout()
        if image:
            allowed = self._allowed(image)
            if self.has_trait("image"):
                self.image = allowed

    def _allowed(self, image: object) -> str:
        prefix, pattern = self.binder_image_prefix, self.binder_image_pattern
        if not prefix and not pattern:
            raise _refusal(
                "This hub starts no image: its operator has to set BinderMixin.binder_image_prefix."
            )
        if isinstance(image, str) and _IMAGE.fullmatch(image):
            # As it stands in the names that Binder gives.
            head = prefix.replace("_", "-").lower()
            if head and image.startswith(head) and _OWN.fullmatch(image, len(head)):
                return image
            if pattern and re.fullmatch(pattern, image):
                return image
        raise _refusal(f"The image {str(image)[:100]!r} is none that this hub may start.")

    def _idle_timeout(self) -> float:
        wanted = self.user_options.get("idle_timeout", self.binder_idle_timeout)
        if (
            isinstance(wanted, bool)
            or not isinstance(wanted, int | float)
            or not 0 <= wanted <= _LONGEST
        ):
            raise _refusal("The user option idle_timeout is no number of seconds.")
        return float(wanted)


class DockerBinderMixin(BinderMixin):
    """For DockerSpawner: puts the token's file into the container before it starts."""

    async def start_object(self) -> None:
        """Start the container, its token inside."""
        if self.binder_token:
            archive = _archive(self.binder_token_path, self.binder_token)
            await self.docker("put_archive", self.container_id, "/", archive)
        await super().start_object()


class KubeBinderMixin(BinderMixin):
    """For KubeSpawner: a Secret of the pod's own holds the token, mounted as a file.

    The pod owns it: Kubernetes removes it with the pod. The hub's role needs the verbs ``create``
    and ``delete`` for secrets.
    """

    after_pod_created_hook: Any

    def start(self) -> Any:
        """Start the pod, and make its Secret as soon as it is there to own it."""
        self._with_secret()
        return super().start()

    def _with_secret(self) -> None:
        theirs = self.after_pod_created_hook
        if not isinstance(theirs, _SecretHook):  # it may start a second time
            self.after_pod_created_hook = _SecretHook(theirs)

    async def get_pod_manifest(self) -> Any:
        """Return the pod, with the volume of the token."""
        # KubeSpawner needs it anyhow; DockerSpawner's hub has none.
        from kubernetes_asyncio.client import models  # noqa: PLC0415

        pod = await super().get_pod_manifest()
        if self.binder_token:
            folder, _, name = self.binder_token_path.rpartition("/")
            source = models.V1SecretVolumeSource(
                secret_name=_secret_name(pod.metadata.name),
                items=[models.V1KeyToPath(key="token", path=name)],
            )
            pod.spec.volumes = [
                *(pod.spec.volumes or []),
                models.V1Volume(name="binder-token", secret=source),
            ]
            container = pod.spec.containers[0]
            container.volume_mounts = [
                *(container.volume_mounts or []),
                models.V1VolumeMount(name="binder-token", mount_path=folder, read_only=True),
            ]
        return pod


class _SecretHook:
    """Makes the Secret of a pod; afterwards does what the operator's own hook does."""

    def __init__(self, then: Callable[[Any, Any], object] | None) -> None:
        self._then = then

    async def __call__(self, spawner: Any, pod: Any) -> None:
        if spawner.binder_token:
            await self._make(spawner, pod["metadata"])
        if self._then is not None:
            done = self._then(spawner, pod)
            if isawaitable(done):
                await done

    async def _make(self, spawner: Any, pod: dict[str, Any]) -> None:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"]}
        name = _secret_name(pod["name"])
        manifest = {
            "metadata": {"name": name, "ownerReferences": [owner]},
            "data": {"token": base64.b64encode(spawner.binder_token.encode()).decode()},
        }
        # As above.
        from aiohttp import ClientError  # noqa: PLC0415
        from kubernetes_asyncio.client import ApiException  # noqa: PLC0415

        delay, deadline = 0.1, time.monotonic() + spawner.start_timeout
        while True:
            try:
                asked = _made_secret(spawner, manifest)
                if await asyncio.wait_for(asked, spawner.k8s_api_request_timeout):
                    return
            except (ApiException, ClientError, TimeoutError) as error:
                # The pod is there already: an API server that restarts, or has too much to do, must
                # not be its end.
                status = error.status if isinstance(error, ApiException) else 0
                if (status != 429 and 400 <= status < 500) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, 3.0)


async def _made_secret(spawner: Any, manifest: dict[str, Any]) -> bool:
    """Return whether a Secret was made; if not, that of the pod before is removed.

    Kubernetes has not seen to the end of that pod yet.
    """
    from kubernetes_asyncio.client import ApiException  # noqa: PLC0415 - as above

    try:
        await spawner.api.create_namespaced_secret(spawner.namespace, manifest)
    except ApiException as error:
        if error.status != 409:
            raise
    else:
        return True
    try:
        await spawner.api.delete_namespaced_secret(manifest["metadata"]["name"], spawner.namespace)
    except ApiException as error:
        if error.status != 404:
            raise
    return False


def _secret_name(pod: str) -> str:
    return f"{pod}-binder-token"


def _refusal(message: str) -> HTTPError:
    error = HTTPError(400, message)
    # What the hub tells people of it, instead of the error's own text.
    error.jupyterhub_message = message
    return error


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _idle(seconds: float) -> Sequence[str]:
    """Return the arguments for a server that ends by itself after `seconds`; 0: never."""
    if not seconds:
        return ()
    idle = max(1, round(seconds))
    return (
        f"--ServerApp.shutdown_no_activity_timeout={idle}",
        f"--NotebookApp.shutdown_no_activity_timeout={idle}",
        f"--MappingKernelManager.cull_idle_timeout={idle}",
        f"--MappingKernelManager.cull_interval={max(1, min(idle // 4, 300))}",
        "--MappingKernelManager.cull_connected=True",
        f"--TerminalManager.cull_inactive_timeout={idle}",
    )


def _archive(path: str, text: str) -> bytes:
    """Return an archive of one file with the folder it is in.

    Whoever the image runs as has to read it, which only the image knows; in its container there
    is nobody else.
    """
    folder = tarfile.TarInfo(path.rpartition("/")[0].lstrip("/"))
    folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
    file = tarfile.TarInfo(path.lstrip("/"))
    file.size, file.mode, file.mtime = len(text.encode()), 0o444, int(time.time())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(folder)
        archive.addfile(file, io.BytesIO(text.encode()))
    return out.getvalue()
