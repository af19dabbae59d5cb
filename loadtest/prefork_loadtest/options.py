"""What a load user may be told, as options of Locust's own command line and web page.

They travel from a Locust master to its workers with every start, so that all users of a run behave alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment


LOCAL, PUBLISHED = "local", "published"
"""Who may press the page's buttons: visitors from this machine's loopback; or, as the page is published to somebody's
loopback alone, whoever calls it localhost."""


@dataclass(frozen=True)
class UserOptions:
    """How users behave.

    Attributes:
        user_rate: requests per second of each open-rate user.
        think_s: seconds that a closed user waits between an answer and its next request.
        reply_timeout_s: seconds that a reply may take, and a connection.
        probe: `SEND=>EXPECT` for a service that is no echo; "" for the proof of an echo.
        tls_ca: a file with the certificate that TLS users trust; "" for those that the system trusts.
        control: the server's control socket, for the tab on Locust's web page; "" for none.
        container: the container that it is in, on this host; "" for none.
        agent: the socket of an agent beside it; "" for none.
        visitors: whose page it is: `LOCAL` or `PUBLISHED`.
    """

    user_rate: float = 10.0
    think_s: float = 0.02
    reply_timeout_s: float = 5.0
    probe: str = ""
    tls_ca: str = ""
    control: str = ""
    container: str = ""
    agent: str = ""
    visitors: str = LOCAL

    @classmethod
    def of(cls, environment: Environment) -> UserOptions:
        """The options of an environment; the defaults where it was given none."""
        given = vars(environment.parsed_options) if environment.parsed_options else {}
        return cls(
            user_rate=float(given.get("prefork_user_rate") or cls.user_rate),
            think_s=float(given.get("prefork_think") or 0.0) if "prefork_think" in given else cls.think_s,
            reply_timeout_s=float(given.get("prefork_reply_timeout") or cls.reply_timeout_s),
            probe=str(given.get("prefork_probe") or ""),
            tls_ca=str(given.get("prefork_tls_ca") or ""),
            control=str(given.get("prefork_control") or ""),
            container=str(given.get("prefork_container") or ""),
            agent=str(given.get("prefork_agent") or ""),
            visitors=str(given.get("prefork_visitors") or LOCAL),
        )

    def arguments(self) -> list[str]:
        """These options as arguments of Locust's command line."""
        return [
            f"--prefork-user-rate={self.user_rate}",
            f"--prefork-think={self.think_s}",
            f"--prefork-reply-timeout={self.reply_timeout_s}",
            f"--prefork-probe={self.probe}",
            f"--prefork-tls-ca={self.tls_ca}",
        ]


def add_arguments(parser: LocustArgumentParser) -> None:
    """Add the options to Locust's parser: on the command line, in the environment and on the web page."""
    for name, default, text in (
        ("user-rate", UserOptions.user_rate, "Requests per second of each open-rate user"),
        ("think", UserOptions.think_s, "Seconds a closed user waits between an answer and its next request"),
        ("reply-timeout", UserOptions.reply_timeout_s, "Seconds a reply may take, and a connection"),
    ):
        variable = f"PREFORK_LOADTEST_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--prefork-{name}", type=float, default=default, help=text, env_var=variable)
    parser.add_argument(
        "--prefork-probe",
        default="",
        help="SEND=>EXPECT, one line each, for a service that is no echo; {n} is a number that nobody else sends",
        env_var="PREFORK_LOADTEST_PROBE",
    )
    parser.add_argument(
        "--prefork-tls-ca",
        default="",
        help="File (PEM) with the certificate that TLS users trust; else those that the system trusts",
        env_var="PREFORK_LOADTEST_TLS_CA",
    )
    parser.add_argument(
        "--prefork-control",
        default="",
        help="The server's control socket: a tab with its workers, and buttons for faults",
        env_var="PREFORK_LOADTEST_CONTROL",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--prefork-container",
        default="",
        help="The same for a server in a container of this host, by name or id",
        env_var="PREFORK_LOADTEST_CONTAINER",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--prefork-agent",
        default="",
        help="Socket of `python -m prefork_loadtest.agent`, for a server in a container of its own beside this one",
        env_var="PREFORK_LOADTEST_AGENT",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--prefork-visitors",
        default=LOCAL,
        choices=(LOCAL, PUBLISHED),
        help="Who may press those buttons: visitors from this machine; or, of a page that is published to the loopback "
        "of its host alone, whoever calls it localhost",
        env_var="PREFORK_LOADTEST_VISITORS",
        include_in_web_ui=False,
    )
