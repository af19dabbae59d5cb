"""Row 5: two servers behind HAProxy, without a privilege, told to stop and started again in turn, under load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.load import Load
from support.scorecard import FULL, unexpected
from support.waiting import until

if TYPE_CHECKING:
    from docker.models.containers import Container

    from support.compose import Compose
    from support.scorecard import Row

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]

ROUNDS = 5 if FULL else 1


def status(container: Container) -> dict[str, Any]:
    """Return what a server says of itself; nothing while it cannot be asked."""
    done = container.exec_run(["prefork", "status", "--json"])
    # bytes, as no stream was asked for
    found: dict[str, Any] = json.loads(done.output) if done.exit_code == 0 else {}  # type: ignore[arg-type]
    return found


def test_row_05_two_replicas_behind_haproxy_restarted_in_turn_lose_nothing(compose: Compose, row: Row) -> None:
    project = compose("balanced.yml", TARGET="me")
    project.up("haproxy")
    servers = project.containers("lb-server")
    if not FULL:
        row.form = "each once instead of five times"
    row.is_("user of the servers", {c.attrs["Config"]["User"] for c in servers} == {"10001:10001"}, True)
    row.is_("capabilities they keep", sum(c.attrs["HostConfig"]["CapDrop"] != ["ALL"] for c in servers), 0)
    codes = []
    with Load(project.address("haproxy", 7007), rate=100, kept=10) as load:
        until(lambda: load.replies > 200)
        for one in servers * ROUNDS:
            one.stop()  # TERM, and what the compose file says of patience
            codes.append(one.wait(timeout=10)["StatusCode"])
            served = load.replies
            until(lambda: load.replies > served + 100, what="the other serves")  # noqa: B023 - called at once
            one.start()
            asked = f"{one.name} is given requests again"
            until(lambda: status(one).get("totals", {}).get("requests"), 60, what=asked)  # noqa: B023
    row.is_("exit codes", str(set(codes)), "{0}")
    row.says("restarts", len(codes))
    row.lost_nothing(load)
    row.says("idle connections that were ended in order", load.ended)
    row.says("requests that met such an end on their way", load.crossed)
    strange = [line for one in servers for line in unexpected(one.logs().decode("utf-8", "replace"))]
    assert not strange, "the log says what nobody has announced:\n" + "\n".join(strange[:20])
    row.judge()
