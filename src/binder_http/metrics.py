"""What Prometheus reads, under the names that dashboards of BinderHub know.

Counts and times are told by the engine as things end; gauges are read from its state at the moment
of the scrape, so that they cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from binder_core.engine import Binder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily

_BUILD_BUCKETS: Final = (60, 120, 300, 600, 1800, 3600, 7200)
_LAUNCH_BUCKETS: Final = (2, 5, 10, 20, 30, 60, 120, 300, 600)
_MOST_RETRIES: Final = 5
"""The label says "5" for this many retries and for more: a label has few values."""


class Metrics:
    """Counts what the engine tells it, as its observer, and shows it to Prometheus.

    Args:
        repo_label: Whether counts are kept by repository too.
        rate_limit: Returns how many requests GitHub still answers; None while nobody knows.
    """

    def __init__(
        self, *, repo_label: bool = False, rate_limit: Callable[[], int | None] = lambda: None
    ) -> None:
        self._repo_label = repo_label
        self._rate_limit = rate_limit
        self._binder: Binder | None = None
        self._made: _Instruments | None = None

    def watch(self, binder: Binder) -> None:
        """Show the gauges of this binder."""
        self._binder = binder

    def build_ended(self, *, ok: bool, seconds: float, provider: str, repo_url: str) -> None:
        """Count a build."""
        status = _status(ok=ok)
        self._instruments.build_time.labels(status).observe(seconds)
        self._instruments.build_count.labels(**self._labels(status, provider, repo_url)).inc()

    def launch_ended(
        self, *, ok: bool, seconds: float, retries: int, provider: str, repo_url: str
    ) -> None:
        """Count a launch."""
        status = _status(ok=ok)
        tries = str(min(retries, _MOST_RETRIES))
        self._instruments.launch_time.labels(status, tries).observe(seconds)
        self._instruments.launch_count.labels(**self._labels(status, provider, repo_url)).inc()

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type.

        Args:
            accept: The ``Accept`` header.
        """
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - see `_Instruments`

        encode, content_type = choose_encoder(accept)
        return encode(self._instruments.registry), content_type

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauges, as they are now."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - see `_Instruments`

        builds, launches = self._binder.in_progress if self._binder else (0, 0)
        yield GaugeMetricFamily(
            "binderhub_inprogress_builds", "Builds currently in progress", builds
        )
        yield GaugeMetricFamily(
            "binderhub_inprogress_launches", "Launches currently in progress", launches
        )
        if (left := self._rate_limit()) is not None:
            yield GaugeMetricFamily(
                "binderhub_github_rate_limit_remaining", "GitHub rate limit remaining", left
            )

    @property
    def _instruments(self) -> _Instruments:
        if self._made is None:
            self._made = _Instruments(self, repo_label=self._repo_label)
        return self._made

    def _labels(self, status: str, provider: str, repo_url: str) -> dict[str, str]:
        labels = {"status": status, "provider": provider}
        return labels | {"repo": repo_url} if self._repo_label else labels


class _Instruments:
    """What prometheus-client counts with.

    Made at the first count, not at the start of the server: the library takes its time to import.
    """

    registry: CollectorRegistry
    build_time: Histogram
    launch_time: Histogram
    build_count: Counter
    launch_count: Counter

    def __init__(self, gauges: Any, *, repo_label: bool) -> None:
        from prometheus_client import (  # noqa: PLC0415 - see above
            CollectorRegistry,
            Counter,
            GCCollector,
            Histogram,
            PlatformCollector,
            ProcessCollector,
        )

        # One of our own: two Binders in one process count apart.
        registry = self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(gauges)
        labels = ["status", "provider", *(["repo"] if repo_label else [])]
        self.build_time = Histogram(
            "binderhub_build_time_seconds",
            "Histogram of build times",
            ["status"],
            buckets=_BUILD_BUCKETS,
            registry=registry,
        )
        self.launch_time = Histogram(
            "binderhub_launch_time_seconds",
            "Histogram of launch times",
            ["status", "retries"],
            buckets=_LAUNCH_BUCKETS,
            registry=registry,
        )
        self.build_count = Counter(
            "binderhub_build_count", "Counter of builds by repo", labels, registry=registry
        )
        self.launch_count = Counter(
            "binderhub_launch_count", "Counter of launches by repo", labels, registry=registry
        )


def _status(*, ok: bool) -> str:
    return "success" if ok else "failure"
