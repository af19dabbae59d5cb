"""What a certificate says of itself, read without a library, against the library that made it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from prefork.connection import certificate

NAMES = ("Example.org", "*.example.org", "xn--bcher-kva.example", "127.0.0.1", "::1")


def made(*names: str, **more: object) -> tuple[bytes, x509.Certificate]:
    pem = trustme.CA().issue_cert(*names, **more).cert_chain_pems[0].bytes()  # type: ignore[arg-type]
    return pem, x509.load_pem_x509_certificate(pem)


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_names_and_end_are_those_the_library_reads(kind: trustme.KeyType) -> None:
    pem, known = made(*NAMES, key_type=kind)
    assert certificate.read(pem) == (
        ("example.org", "*.example.org", "xn--bcher-kva.example"),  # addresses are no names
        known.not_valid_after_utc.timestamp(),
    )


@pytest.mark.parametrize("year", [1999, 2049, 2050, 2999])
def test_the_end_may_be_in_either_form_of_time(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    pem, _ = made("a.example", not_before=datetime(1980, 1, 1, tzinfo=UTC), not_after=end)
    assert certificate.read(pem).expires == end.timestamp()


def test_a_certificate_without_names_has_none() -> None:
    pem, _ = made("a@example.org")
    assert certificate.read(pem).names == ()
    assert certificate.read(trustme.CA().cert_pem.bytes()).names == ()


def test_the_first_of_a_chain_counts_and_what_is_around_it_does_not() -> None:
    first, _ = made("first.example")
    second, _ = made("second.example")
    assert certificate.read(b"# mine\n" + first + second).names == ("first.example",)


def test_what_is_none_is_a_value_error_wherever_it_is_cut_or_changed() -> None:
    _, known = made(*NAMES)
    der = known.public_bytes(serialization.Encoding.DER)
    for broken in [der[:size] for size in range(len(der))]:
        with pytest.raises(ValueError, match="certificate"):
            certificate.read(ssl.DER_cert_to_PEM_cert(broken).encode())
    for at in range(len(der)):
        changed = der[:at] + bytes([der[at] ^ 0xFF]) + der[at + 1 :]
        try:
            certificate.read(ssl.DER_cert_to_PEM_cert(changed).encode())
        except ValueError:  # and nothing else
            continue
    for none in (b"", b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----"):
        with pytest.raises(ValueError, match="certificate"):
            certificate.read(none)
