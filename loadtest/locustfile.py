"""The load users for Locust's own command line and web page.

    locust -f loadtest/locustfile.py --host tcp://127.0.0.1:7                     the page at http://localhost:8089
    locust -f loadtest/locustfile.py --host tcp://127.0.0.1:7 --headless -u 8 -t 30s
    locust -f loadtest/locustfile.py --host tcp://127.0.0.1:4000 GreetUser        another user, by its class name

Without a name the echo proof attacks: it needs an echo service, of bytes or of lines, and checks every answer.
"""

from prefork_loadtest.entry import (
    BigUser,
    ChargenUser,
    ChurnUser,
    CrowdUser,
    DaytimeUser,
    DiscardUser,
    EchoUser,
    FragmentUser,
    GreetUser,
    HalfOpenUser,
    IdleUser,
    OpenEchoUser,
    OversizeUser,
    PipelineUser,
    ProxyUser,
    QotdUser,
    RawEchoUser,
    ResetUser,
    SlowlorisUser,
    SlowReaderUser,
    TimeUser,
    TlsChurnUser,
    TlsEchoUser,
)

__all__ = [
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
