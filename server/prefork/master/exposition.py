"""What Prometheus is shown: the status as metrics, in its text format 0.0.4.

The names follow its conventions: base units, `_total` for what only grows, a timestamp where an age would be. Only a
server with `--metrics` imports this file, and the library with it. It never reads the pool or the scoreboard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prefork.master.status import STATES, WORKER_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TOTALS: Final = (
    # name, which `_total` is added to, key in the status, help
    ("prefork_connections_accepted", "accepted", "Connections accepted."),
    ("prefork_connections_refused", "refused", "Connections accepted and reset: not trusted, denied, or too many."),
    ("prefork_requests", "requests", "Requests: frames that handlers have taken."),
    ("prefork_errors", "errors", "Frames refused, handlers and TLS handshakes failed."),
    ("prefork_received_bytes", "bytes_in", "Bytes received from clients."),
    ("prefork_sent_bytes", "bytes_out", "Bytes sent to clients."),
    ("prefork_log_dropped", "log_dropped", "Log lines that could not be written."),
    ("prefork_workers_started", "workers_started", "Workers forked."),
    ("prefork_workers_lost", "workers_lost", "Workers that ended without having been told to."),
)

_OF_A_WORKER: Final = (
    ("prefork_worker_connections", "connections", "Open connections of a worker."),
    ("prefork_worker_resident_memory_bytes", "rss_bytes", "Resident memory of a worker, pages it shares included."),
)


def page(status: dict[str, Any]) -> bytes:
    """Return the page for a status as `prefork status --json` has it."""
    return generate_latest(_Families((*_server(status), *_workers(status), *_sockets(status))))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return what there is."""
        return self._families


def _server(status: dict[str, Any]) -> Iterator[Metric]:
    yield _rows("prefork_build_info", "The running version.", ["version"], [([status["version"]], 1)])
    yield _rows(
        "prefork_state", "1 for the state the server is in.", ["state"],
        [([state], int(state == status["state"])) for state in STATES],
    )  # fmt: skip
    yield GaugeMetricFamily("prefork_start_time_seconds", "When this master was started.", status["started"])
    yield GaugeMetricFamily("prefork_generation", "The generation that serves.", status["generation"])
    totals = status["totals"]
    yield GaugeMetricFamily("prefork_connections", "Open connections.", totals["connections"])
    for name, key, text in _TOTALS:
        yield CounterMetricFamily(name, text, totals[key])
    reloads = CounterMetricFamily(
        "prefork_reloads", "Reloads that took place, and that were refused.", labels=["result"]
    )
    reloads.add_metric(["ok"], totals["reloads"])
    reloads.add_metric(["failed"], totals["reloads_failed"])
    yield reloads


def _workers(status: dict[str, Any]) -> Iterator[Metric]:
    workers = status["workers"]
    states = [worker["state"] for worker in workers]
    yield GaugeMetricFamily("prefork_workers_wanted", "Workers there should be.", status["workers_wanted"])
    yield _rows(
        "prefork_workers", "Workers by state.", ["state"], [([state], states.count(state)) for state in WORKER_STATES]
    )
    for name, key, text in _OF_A_WORKER:
        yield _rows(name, text, ["slot", "pid"], [([str(w["slot"]), str(w["pid"])], w[key]) for w in workers])
    for name, key, text in (
        ("prefork_worker_connections_accepted", "accepted", "Connections a worker has accepted."),
        ("prefork_worker_requests", "requests", "Requests a worker has taken."),
    ):
        family = CounterMetricFamily(name, text, labels=["slot", "pid"])
        for worker in workers:
            family.add_metric([str(worker["slot"]), str(worker["pid"])], worker[key])
        yield family


def _sockets(status: dict[str, Any]) -> Iterator[Metric]:
    listeners = [(_label(one["address"]), one) for one in status["listeners"]]
    yield _rows(
        "prefork_accept_queue_connections", "Connections that wait in the accept queue.", ["address"],
        [([address], one["queued"]) for address, one in listeners if one["queued"] is not None],
    )  # fmt: skip
    yield _rows(
        "prefork_accept_queue_limit", "Length of the accept queue, as it was asked for.", ["address"],
        [([address], one["backlog"]) for address, one in listeners],
    )  # fmt: skip
    if status["certificates"]:
        yield _rows(
            "prefork_tls_certificate_expiry_timestamp_seconds", "When a certificate expires.", ["file"],
            [([_label(one["file"])], one["expires"]) for one in status["certificates"]],
        )  # fmt: skip


def _rows(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in {tuple(values): value for values, value in rows}.items():
        family.add_metric(values, value)
    return family


def _label(path: str) -> str:
    """Return a path, in which any byte may be, as text that UTF-8 can hold."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
