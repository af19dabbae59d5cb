"""A tab on Locust's own web page: who of the server's workers does what, and buttons that strike a fault.

It needs `--prefork-control PATH`. Locust's page draws the table itself, from rows that travel with its statistics; the
buttons come from `tab.js`. A fault that is struck here has its phase in the books like any other. Buttons obey visitors
of this machine who call it so (another name may be anybody's page that was made to resolve here), and with Locust's own
`--web-login` those who have logged in; nobody else. In a container no visitor's address is this machine's: there
`--prefork-visitors published` says that the port is published to loopback alone.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import time
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gevent
from flask import Response, request

from prefork_loadtest import control
from prefork_loadtest.balance import Balance
from prefork_loadtest.census import Census
from prefork_loadtest.faultplan import HELD, HOLD_S, SUMMARIES, Fault, Kind
from prefork_loadtest.faults import STRIKES, Mark, Subject
from prefork_loadtest.ledger import STEADY
from prefork_loadtest.options import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.web import WebUI

    from prefork_loadtest.collector import Collector
    from prefork_loadtest.faults import Strike
    from prefork_loadtest.reach import Reach

KEY = "prefork"
COLUMNS = {
    "worker": "Worker",
    "pid": "pid",
    "state": "State",
    "share": "Share of requests",
    "requests": "# Requests",
    "accepted": "# Connections",
    "errors": "# Errors",
}
HEADER = "X-Prefork"
"""A page of another origin cannot send it unasked: no stranger's page strikes a fault in a visitor's name."""
LOOK_S = 0.1

_log = logging.getLogger(__name__)


class Tab:
    """The tab of one web page.

    Args:
        web: Locust's web page.
        reach: how the server is got at.
        collector: the books that a fault's phase goes into.
        visitors: who may press the buttons, as of `options`.
    """

    def __init__(self, web: WebUI, reach: Reach, collector: Collector, visitors: str = LOCAL) -> None:
        self._visitors = visitors
        self._reach = reach
        self._collector = collector
        self._balance = Balance()
        self._active: Strike | None = None
        self.marks: list[Mark] = []
        structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
        web.template_args["extended_tabs"] = [{"title": "Server workers", "key": KEY}]
        web.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]
        app = web.app
        if app is None:
            return
        self._has_login = web.web_login
        guard: Callable[[Any], Any] = web.auth_required_if_enabled
        app.add_url_rule(f"/{KEY}/tab.js", f"{KEY}_script", self._script)
        app.add_url_rule(f"/{KEY}/fault/<kind>", f"{KEY}_fault", guard(self._fault), methods=["POST"])
        app.add_url_rule(f"/{KEY}/marks", f"{KEY}_marks", guard(self._marks))
        app.after_request(self._extend)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each worker; none where the server does not answer."""
        try:
            status = self._reach.ask()
        except control.ControlError as error:
            return [{"worker": str(error)}]
        self._balance.see(status)
        states = {worker.pid: worker.state for worker in status.workers}
        shares = self._balance.shares()
        total = sum(share.requests for share in shares) or 1
        return [
            {
                "worker": f"worker {share.slot}, generation {share.generation}",
                "pid": share.pid,
                "state": states.get(share.pid, "gone"),
                "share": f"{share.requests / total:.1%}",
                "requests": share.requests,
                "accepted": share.accepted,
                "errors": share.errors,
            }
            for share in shares
        ]

    def _extend(self, response: Response) -> Response:
        """Add the rows to Locust's statistics, and the script to its page."""
        if request.path.endswith("/stats/requests") and response.is_json:
            table = response.get_json()
            table["extended_stats"] = [{"key": KEY, "data": self.rows()}]
            response.set_data(json.dumps(table))
        elif request.path == "/" and response.mimetype == "text/html":
            page = response.get_data(as_text=True)
            response.set_data(page.replace("</body>", f'<script src="./{KEY}/tab.js"></script></body>'))
        return response

    def _script(self) -> Response:
        kinds = json.dumps({kind.value: SUMMARIES[kind] for kind in Kind})
        text = (resources.files("prefork_loadtest") / "tab.js").read_text(encoding="utf-8")
        return Response(text.replace("KINDS", kinds), mimetype="text/javascript")

    def _marks(self) -> Response:
        marks = [f"{mark.at_s:.1f} s  {mark.text}" for mark in self.marks[-8:]]
        return Response(json.dumps({"busy": self._active is not None, "marks": marks}), mimetype="application/json")

    def _fault(self, kind: str) -> tuple[str, int]:
        """Strike, and say in one line what was done."""
        if HEADER not in request.headers:
            return "refused: not asked by this page", 403
        if not self._has_login and (reason := self._refusal(request.host, request.remote_addr)):
            return f"refused: {reason}; give Locust --web-login to let others in", 403
        if kind not in set(Kind):
            return f"no fault {kind!r}", 404
        if self._active is not None:
            return "another fault is under way", 409
        fault = Fault(0.0, Kind(kind), HOLD_S if kind in HELD else 0.0)
        # one for each: between two the server may have been started anew, or scaled
        subject = Subject(self._reach, Census(self._reach), None, self._balance.see)
        self._active = strike = STRIKES[fault.kind](fault, subject)
        try:
            self._collector.enter(fault.kind.phase, self._collector.pace)
            said = strike.begin()
        except control.ControlError as error:
            self._active = None
            self._collector.enter(STEADY, self._collector.pace)
            return str(error), 502
        self._mark(said)
        gevent.spawn(self._watch, strike)
        return said, 200

    def _refusal(self, host: str, visitor: str | None) -> str:
        """Why a visitor may not strike, or ""."""
        if self._visitors == LOCAL and not is_local(visitor):
            return "not asked from this machine"
        return "" if is_local_name(host) else f"this page is localhost to those who may, not {host}"

    def _watch(self, strike: Strike) -> None:
        """Wait until the server has settled; whatever happens, nothing stays stopped."""
        try:
            while not strike.watch():
                time.sleep(LOOK_S)
        finally:
            strike.undo()
            self._active = None
            self._collector.enter(STEADY, self._collector.pace)
        settled = strike.outcome.settled_s
        kind = strike.fault.kind.value
        self._mark(f"{kind} NOT settled: {strike.unsettled}" if settled is None else f"{kind} settled: {settled:.2f} s")

    def _mark(self, text: str) -> None:
        self.marks.append(Mark(time.time() - self._collector.started_at, text))
        _log.info(text)


def is_local_name(host: str) -> bool:
    """Whether what a request calls its host, with a port or not, is this machine's own name for itself (RFC 6761)."""
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or is_local(name)


def is_local(address: str | None) -> bool:
    """Whether a visitor's address is one of this machine's loopback."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
