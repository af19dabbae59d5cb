"""How addresses are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_wire import Address, parse_address

GOOD = {
    "127.0.0.1:7000": Address("tcp", "127.0.0.1", 7000),
    "localhost:0": Address("tcp", "localhost", 0),
    "echo.example.com:65535": Address("tcp", "echo.example.com", 65535),
    "127.0.0.1:echo": Address("tcp", "127.0.0.1", "echo"),
    "localhost:914c-g": Address("tcp", "localhost", "914c-g"),
    "[::1]:7000": Address("tcp", "::1", 7000),
    "[::]:daytime": Address("tcp", "::", "daytime"),
    "[fe80::1%eth0]:7": Address("tcp", "fe80::1%eth0", 7),
    ":7000": Address("tcp", "", 7000),
    ":echo": Address("tcp", "", "echo"),
    "unix:/run/echo.sock": Address("unix", path="/run/echo.sock"),
    "unix:echo.sock": Address("unix", path="echo.sock"),
    "fd://3": Address("fd", fd=3),
}


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read_and_written_back(text: str) -> None:
    assert parse_address(text) == GOOD[text]
    assert str(GOOD[text]) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("tcp://127.0.0.1:7", "127.0.0.1:7"),
        ("tcp://[::1]:echo", "[::1]:echo"),
        ("127.0.0.1:007", "127.0.0.1:7"),
        ("unix:///run/echo.sock", "unix:/run/echo.sock"),
    ],
)
def test_other_ways_to_write_it_have_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_address(text)) == canonical
    assert parse_address(canonical) == parse_address(text)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "has no port"),
        ("7000", "has no port"),
        ("localhost", "has no port"),
        ("localhost:", "needs a port"),
        ("localhost:70000", "above 65535"),
        ("localhost:" + "9" * 5000, "above 65535"),
        ("localhost:-1", "needs a port"),
        ("localhost:+80", "needs a port"),
        ("localhost:²", "needs a port"),
        ("localhost:80 ", "needs a port"),
        ("::1:80", "brackets"),
        ("a:b:80", "brackets"),
        ("[::1]", "after the bracket"),
        ("[::1", "after the bracket"),
        ("[localhost]:80", "between the brackets"),
        ("[]:80", "between the brackets"),
        ("local host:80", "neither a name nor an IP address"),
        ("/run/x:80", "neither a name nor an IP address"),
        ("a\nb:80", "neither a name nor an IP address"),
        ("http://localhost:80", "unknown scheme"),
        ("unix:", "path of a socket"),
        ("unix:a\0b", "path of a socket"),
        ("unix:/run/a\nb", "path of a socket"),
        ("unix:/run/\x9b", "path of a socket"),
        ("unix:/run/\udce1", "path of a socket"),
        ("fd://", "number of an open file descriptor"),
        ("fd:3", "number of an open file descriptor"),
        ("fd://" + "9" * 5000, "number of an open file descriptor"),
        ("fd://-3", "number of an open file descriptor"),
    ],
)
def test_a_bad_address_is_one_line_with_the_value_and_the_cure(text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure) as refused:
        parse_address(text)
    message = str(refused.value)
    assert repr(text)[:60] in message  # of a long one, the beginning
    assert "\n" not in message


@given(st.text() | st.text("[]:/%.a1 -"))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address
