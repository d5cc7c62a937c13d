"""A JupyterHub for Binder on one host with a Docker engine; docs/jupyterhub.md has the steps.

What differs from place to place is taken from the environment:

BINDER_IMAGE_PREFIX   Binder's builder.image_prefix: what was named with it may be started
BINDER_TOKEN_FILE     a file with the token of Binder's launcher: `openssl rand -hex 32`
HUB_BIND_URL          where the hub's proxy listens; http://127.0.0.1:8000/
"""

import os
import sys
from pathlib import Path

from dockerspawner import DockerSpawner

from binder_backends.jupyterhub.spawner import DockerBinderMixin


class BinderSpawner(DockerBinderMixin, DockerSpawner):
    """Containers of images that Binder has built."""


c = get_config()  # noqa: F821 - JupyterHub gives it to this file

c.JupyterHub.bind_url = os.environ.get("HUB_BIND_URL", "http://127.0.0.1:8000/")
# Nobody logs in: whoever has a server's token may use it.
c.JupyterHub.authenticator_class = "null"
# Servers go on while the hub restarts.
c.JupyterHub.cleanup_servers = False
# Tell at once how a server starts, instead of waiting 10 s for it.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}

c.JupyterHub.spawner_class = BinderSpawner
c.BinderMixin.binder_image_prefix = os.environ["BINDER_IMAGE_PREFIX"]
c.DockerSpawner.remove = True
# By which its containers are known from others: `docker ps --filter label=io.binderkit.hub`.
c.DockerSpawner.extra_create_kwargs = {"labels": {"io.binderkit.hub": "yes"}}
MEMORY = "2G"
c.DockerSpawner.mem_limit = MEMORY
c.DockerSpawner.cpu_limit = 2.0
c.DockerSpawner.extra_host_config = {
    "memswap_limit": MEMORY,  # with memory: no swap on top of it
    "pids_limit": 1024,
    "security_opt": ["no-new-privileges"],
}
# An image may have to be pulled first.
c.Spawner.start_timeout = 240
c.Spawner.http_timeout = 60

c.JupyterHub.services = [
    {
        "name": "binder",
        "api_token": Path(os.environ["BINDER_TOKEN_FILE"]).read_text().strip(),
    },
    {
        # Servers end by themselves when idle, which they alone can tell: of what their kernels do
        # the hub hears nothing. This removes the temporary users of those that have ended.
        "name": "cull",
        "command": [
            sys.executable,
            "-m",
            "jupyterhub_idle_culler",
            "--timeout=7200",
            "--cull-users=true",
            "--cull-default-servers=false",
        ],
    },
]
c.JupyterHub.load_roles = [
    {"name": "binder", "services": ["binder"], "scopes": ["admin:users", "admin:servers"]},
    {
        "name": "cull",
        "services": ["cull"],
        "scopes": [
            "list:users",
            "read:users:activity",
            "read:servers",
            "delete:servers",
            "admin:users",
        ],
    },
]
