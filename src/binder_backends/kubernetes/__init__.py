"""Builds in pods of a Kubernetes cluster.

The cluster holds the builds, the locks and the logs, so any number of servers share them with
nothing else between them: a build is a pod that has the build's name.

- `settings`: what an operator can set;
- `manifest`, `pods`: pure: what a pod and its secret look like, and what a pod says of itself;
- `cluster`: the connection, its faults made ours;
- `watching`: one watch for all builds of a server;
- `quotas`: whose turn it is where builds are counted;
- `logs`: a pod's log, read to its end across reconnects;
- `affinity`: which node a build prefers;
- `builder`: the plug-in.
"""

from binder_backends.kubernetes.builder import KubernetesBuilder
from binder_backends.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesBuilder", "KubernetesSettings"]
