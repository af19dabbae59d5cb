"""The file that `prefork-loadtest init` writes: a scenario for a service of one's own, to be changed. Pure."""

from __future__ import annotations

FRAMINGS = {
    "lines": "Lines(max_length=8192)",
    "delimited": 'Delimited(b"\\x00", max_length=8192)',
    "length-prefixed": "LengthPrefixed(4, max_length=65536)",
    "netstring": "Netstring(max_length=65536)",
}
"""By what is typed; each is what the file then says."""

_FILE = '''"""A load test of {what}, written by `prefork-loadtest init`: change what is marked, then run it.

    prefork-loadtest run {name}.py{host}
    prefork-loadtest run {name}.py{host} --users 50 --rate 500 --duration 30 --workers 2
    locust -f {name}.py --host tcp://HOST:PORT                     # with Locust's web page
"""

from prefork_loadtest.own import Churning, Closed, Crew, OpenRate, Own, Scenario
from prefork_wire import {framing_class}


class Dialogue:
    """One request and its answer."""

    row = "{name}"
    framing = {framing}  # CHANGE: where a frame ends

    def request(self, number: str) -> bytes:
        """The payload of a request. No other one has this number: keep it in, and mixed-up answers are found."""
        return f"hello {{number}}".encode()  # CHANGE: what your clients ask

    def is_right(self, request: bytes, answer: bytes) -> bool:
        """Whether the answer is the one to this request."""
        return answer == request  # CHANGE: what your service answers


class KeptUser(Dialogue, Closed):
    """Keeps its connection, and asks again after each answer."""


class ScheduledUser(Dialogue, OpenRate):
    """Keeps its connection, and asks when it is due."""


class BriefUser(Dialogue, Churning):
    """Connects for each request."""


SCENARIO = Scenario(
    name="{name}",
    summary="{what}: right answers and no losses",
    crews=(Crew("KeptUser", 2), Crew("ScheduledUser", 1, open_rate=True), Crew("BriefUser", 1)),
    gates=(
        "ramp.failed == 0",
        "steady.failed == 0",
        "steady.p99_intended_ms < 250",  # CHANGE: what you promise
        "drain.failed == 0",
        "run.wrong == 0",
    ),
    users=16,
    rate=100.0,
    duration_s=10.0,
    own={own},
)
'''


def text(name: str, framing: str, target: str | None) -> str:
    """The file.

    Args:
        name: of the scenario, which is the file's without its end.
        framing: one of `FRAMINGS`.
        target: what `prefork serve` is to serve for each run; None for a server that somebody else starts.
    """
    return _FILE.format(
        name=name,
        what=target or "a TCP service",
        host="" if target else " --host tcp://HOST:PORT",
        framing=FRAMINGS[framing],
        framing_class=FRAMINGS[framing].partition("(")[0],
        own=f'Own(("{target}", "--workers", "2"))' if target else "None",
    ).replace(", Own, Scenario", ", Own, Scenario" if target else ", Scenario")
