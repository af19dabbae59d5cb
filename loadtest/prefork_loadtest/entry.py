"""What Locust's own command line loads: the users by name, their options, and the collector of their samples.

`loadtest/locustfile.py` and the worker processes of `prefork-loadtest run --workers` both come here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locust import User, events
from locust.runners import WorkerRunner

from prefork_loadtest import epilogue, locust_stats, options
from prefork_loadtest.collector import install
from prefork_loadtest.container import Container, ContainerError
from prefork_loadtest.hostile import (
    HalfOpenUser,
    IdleUser,
    OversizeUser,
    SlowlorisUser,
    SlowReaderUser,
)
from prefork_loadtest.options import UserOptions
from prefork_loadtest.oracle import (
    BigUser,
    FragmentUser,
    PipelineUser,
    ProxyUser,
    RawEchoUser,
    ResetUser,
    TlsChurnUser,
    TlsEchoUser,
)
from prefork_loadtest.reach import Here
from prefork_loadtest.remote import Beside
from prefork_loadtest.service_users import (
    ChargenUser,
    DaytimeUser,
    DiscardUser,
    GreetUser,
    QotdUser,
    TimeUser,
)
from prefork_loadtest.tab import Tab
from prefork_loadtest.users import ChurnUser, CrowdUser, EchoUser, OpenEchoUser

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment

    from prefork_loadtest.reach import Reach

__all__ = [
    "USERS",
    "BigUser",
    "ChargenUser",
    "ChurnUser",
    "CrowdUser",
    "DaytimeUser",
    "DiscardUser",
    "EchoUser",
    "FragmentUser",
    "GreetUser",
    "HalfOpenUser",
    "IdleUser",
    "OpenEchoUser",
    "OversizeUser",
    "PipelineUser",
    "ProxyUser",
    "QotdUser",
    "RawEchoUser",
    "ResetUser",
    "SlowReaderUser",
    "SlowlorisUser",
    "TimeUser",
    "TlsChurnUser",
    "TlsEchoUser",
]

USERS: dict[str, type[User]] = {
    user.__name__: user
    for user in (
        ChargenUser,
        ChurnUser,
        DaytimeUser,
        DiscardUser,
        EchoUser,
        GreetUser,
        OpenEchoUser,
        QotdUser,
        TimeUser,
        BigUser,
        CrowdUser,
        FragmentUser,
        HalfOpenUser,
        IdleUser,
        OversizeUser,
        PipelineUser,
        ProxyUser,
        RawEchoUser,
        ResetUser,
        SlowReaderUser,
        SlowlorisUser,
        TlsChurnUser,
        TlsEchoUser,
    )
}
"""Every user by the name that scenarios and command lines call it."""


def _on_parser(parser: LocustArgumentParser, **_: Any) -> None:  # noqa: ANN401 - Locust passes what it likes
    options.add_arguments(parser)


def _on_init(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - as above
    collector = install(environment)
    asked = UserOptions.of(environment)
    if environment.web_ui is not None and (asked.control or asked.container):
        Tab(environment.web_ui, _reach(asked), collector, asked.visitors)
    named = environment.parsed_options.user_classes if environment.parsed_options else []
    # Locust would let every class of the file attack one port. A worker keeps all: its master says who is needed.
    # A file of somebody's own has its own.
    kits = EchoUser in environment.user_classes
    if kits and not named and not isinstance(environment.runner, WorkerRunner):
        environment.user_classes = [EchoUser]


def _reach(asked: UserOptions) -> Reach:
    """How the server is got at, for the tab."""
    if asked.agent:
        return Beside(Path(asked.agent), asked.control)
    if not asked.container:
        return Here(Path(asked.control))
    try:
        return Container(asked.container, asked.control)
    except ContainerError as error:
        sys.stderr.write(f"locust: {error}\n")
        sys.exit(2)


def _on_quitting(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - as above
    epilogue.conclude(environment)


locust_stats.install()
for _event, _listener in (
    (events.init_command_line_parser, _on_parser),
    (events.init, _on_init),
    (events.quitting, _on_quitting),
):
    _event.add_listener(_listener)  # type: ignore[no-untyped-call]
