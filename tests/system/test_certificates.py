"""Certificates: which of them is served, how they change, when they expire, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from support.server import Server, run
from support.tls import BLOCKING, WHO, Authority, Visitors, ask, connect
from support.waiting import until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_certificates_change_under_load_and_a_broken_one_changes_nothing(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "2", *authority.options) as server:
        with Visitors(server, authority.client(), 4) as visitors:
            until(lambda: visitors.visits > 20)
            for _ in range(3):
                authority.issue()
                seen = len(visitors.serials)
                assert run("reload", "--control", server.control).returncode == 0
                until(lambda now=seen: len(visitors.serials) > now)  # type: ignore[misc]
            workers, good = server.workers(), authority.cert.read_bytes()
            for broken, why in (
                (b"nonsense", "holds no certificate (PEM)"),
                (good[:200] + b"\n-----END CERTIFICATE-----\n", "cannot be used"),
                (Authority(authority.folder / "other").cert.read_bytes(), "is not the key of the certificate in"),
            ):
                authority.cert.write_bytes(broken)
                told = run("reload", "--control", server.control)
                assert (told.returncode, why in told.stderr, told.stderr.count("\n")) == (1, True, 1), told.stderr
            assert server.workers() == workers
            before = visitors.visits
            until(lambda: visitors.visits > before + 20)
        assert visitors.failures == []
        assert len(visitors.serials) == 4


NAMED = {
    "first": ("localhost", "first.second.example"),
    "second": ("second.example", "*.second.example", "Upper.Example"),
    "third": ("www.second.example", "localhost", "third.example"),
}


def shown(server: Server, context: ssl.SSLContext, name: str) -> set[str]:
    """Return the names in the certificate that is shown to a client who asks for `name`."""
    context.check_hostname = False
    with connect(server, context, name=name) as sock:
        assert ask(sock, b"?")
        certificate = sock.getpeercert()
        assert certificate is not None
        return {str(pair[1]) for pair in certificate["subjectAltName"]}


@pytest.mark.parametrize("attribute", ["service", "shout", "blocking"])
def test_each_name_gets_its_own_certificate(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str
) -> None:
    options = [option for name, hosts in NAMED.items() for option in authority.issue(*hosts, file=name)]
    options += ["--tls-client-ca", str(authority.ca_file)]
    target = module(BLOCKING) if attribute == "blocking" else module(WHO).replace("service", attribute)
    with start(target, "--workers", "1", *options) as server:
        for name, certificate in {
            "localhost": "first",
            "third.example": "third",
            "second.example": "second",
            "a.second.example": "second",
            "a.b.second.example": "first",  # a wildcard stands for one label
            "www.second.example": "third",  # the full name before the wildcard
            "first.second.example": "first",
            "UPPER.example": "second",
            "unknown.example": "first",
            "127.0.0.1": "first",  # no name is asked for at all
        }.items():
            wanted = {host.lower() for host in NAMED[certificate]}
            assert {host.lower() for host in shown(server, authority.client("Ada"), name)} == wanted, name
        certificates = server.status()["certificates"]
        assert [set(one["names"]) for one in certificates] == [{n.lower() for n in names} for names in NAMED.values()]


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_a_certificate_that_expires_soon_is_warned_of_and_shown(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    soon, late = in_days(13.5), in_days(15)
    options = [*authority.issue(expires=late, file="late"), *authority.issue("b.example", expires=soon, file="soon")]
    with start(module(WHO), "--workers", "1", *options) as server:
        until(lambda: "renew it" in server.log())
        (line,) = [line for line in server.log().splitlines() if "renew it" in line]
        assert line.endswith(f"soon-cert.pem expires in 13 days, on {soon:%Y-%m-%d}; renew it")
        assert [one["expires"] for one in server.status()["certificates"]] == [
            int(late.timestamp()),
            int(soon.timestamp()),
        ]
        shown = run("status", "--control", server.control).stdout
        assert (
            f"  certificate until {late:%Y-%m-%d}: localhost\n  certificate until {soon:%Y-%m-%d}: b.example\n" in shown
        )
        authority.issue("b.example", expires=in_days(1.5), file="soon")
        assert run("reload", "--control", server.control).returncode == 0
        until(lambda: "expires in 1 day, on" in server.log())
        authority.issue("b.example", expires=late, file="soon")
        before = server.log().count("renew it")
        assert run("reload", "--control", server.control).returncode == 0
        assert server.log().count("renew it") == before


def test_an_expired_certificate_is_served_only_by_who_has_no_other(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    old = in_days(-1)
    with start(module(WHO), "--workers", "1", *authority.options) as server:
        workers = server.workers()
        authority.issue(expires=old)
        told = run("reload", "--control", server.control)
        assert (told.returncode, told.stderr.count("\n")) == (1, 1)
        assert f"cert.pem': expired on {old:%Y-%m-%d}; put a valid one there, and its key" in told.stderr
        assert server.workers() == workers
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"
    with start(module(WHO), "--workers", "1", *authority.options) as server:
        until(lambda: f"has expired on {old:%Y-%m-%d}; renew it" in server.log())
        for again in (None, old, in_days(1)):  # it holds up no reload
            if again is not None:
                authority.issue(expires=again)
            assert run("reload", "--control", server.control).returncode == 0
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"


def faults(authority: Authority) -> Iterator[tuple[list[str], str]]:
    cert, key, folder = str(authority.cert), str(authority.key), authority.folder
    locked = folder / "locked.pem"
    loaded = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    yield ["--tls-cert", "gone.pem"], "No such file or directory"
    yield ["--tls-cert", str(folder)], "Is a directory"
    yield ["--tls-cert", key], "holds no certificate (PEM)"
    yield ["--tls-cert", cert], "holds no private key (PEM); name its file with --tls-key"
    yield ["--tls-cert", cert, "--tls-key", cert], "holds no private key (PEM)"
    yield ["--tls-cert", cert, "--tls-key", str(locked)], "the key is encrypted"
    yield ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key], "--tls-client-ca"
    yield ["--tls-cert", cert, "--tls-key", key, "--tls-min-version", "1.1"], "must be one of 1.2, 1.3"
    nameless = authority.ca.issue_cert("a@example.org")
    nobodys = folder / "nobodys.pem"
    nobodys.write_bytes(nameless.private_key_and_cert_chain_pem.bytes())
    yield ["--tls-cert", cert, "--tls-key", key] * 2, "every name in it is in an earlier one; drop it"
    both = folder / "both.pem"
    both.write_bytes(authority.cert.read_bytes() + authority.key.read_bytes())
    yield ["--tls-cert", str(both), "--tls-cert", str(nobodys)], "it names no host (subjectAltName); drop it"
    yield ["--tls-cert", cert, "--tls-cert", cert, "--tls-key", key], "--tls-key: 1 for 2 certificates"
    yield ["--tls-key", key], "--tls-key: means nothing without --tls-cert"
    yield ["--tls-mode", "starttls"], "--tls-mode: means nothing without --tls-cert"


def test_files_that_cannot_be_used_are_told_in_one_line(
    authority: Authority, module: Callable[..., str], tmp_path: Path
) -> None:
    target = module(WHO)
    for options, why in faults(authority):
        for command in ("check", "serve"):
            told = run(command, target, "--bind", "127.0.0.1:0", "--control", "off", *options, cwd=tmp_path)
            assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1), (options, told)
            assert why in told.stderr, (options, told.stderr)
