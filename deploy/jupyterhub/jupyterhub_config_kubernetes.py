"""A JupyterHub for Binder on Kubernetes; docs/jupyterhub.md says more.

With the Helm chart of Zero to JupyterHub these lines are its `hub.extraConfig`, and the services
and roles its `hub.services` and `hub.loadRoles`. The hub's role needs, beside what KubeSpawner
needs, the verbs create and delete for secrets (the chart gives them).

BINDER_IMAGE_PREFIX   Binder's builder.image_prefix: what was named with it may be started
BINDER_TOKEN_FILE     a file with the token of Binder's launcher, from a Secret
HUB_BIND_URL          where the hub's proxy listens; http://:8000/
"""

import os
import sys
from pathlib import Path

from kubespawner import KubeSpawner

from binder_backends.jupyterhub.spawner import KubeBinderMixin


class BinderSpawner(KubeBinderMixin, KubeSpawner):
    """Pods of images that Binder has built."""


c = get_config()  # noqa: F821 - JupyterHub gives it to this file

c.JupyterHub.bind_url = os.environ.get("HUB_BIND_URL", "http://:8000/")
# Nobody logs in: whoever has a server's token may use it.
c.JupyterHub.authenticator_class = "null"
# Servers go on while the hub restarts.
c.JupyterHub.cleanup_servers = False
# Tell at once how a server starts, instead of waiting 10 s for it.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}

c.JupyterHub.spawner_class = BinderSpawner
c.BinderMixin.binder_image_prefix = os.environ["BINDER_IMAGE_PREFIX"]
c.KubeSpawner.mem_guarantee = "512M"
c.KubeSpawner.mem_limit = "2G"
# What is set aside; without it that would be the limit.
c.KubeSpawner.cpu_guarantee = 0.1
c.KubeSpawner.cpu_limit = 2.0
c.KubeSpawner.storage_pvc_ensure = False
# Nothing in a repository has a say on the cluster.
c.KubeSpawner.automount_service_account_token = False
c.KubeSpawner.allow_privilege_escalation = False
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
