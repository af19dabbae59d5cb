from __future__ import annotations

import pytest

from prefork_loadtest import answers

NOW = 1_795_377_872.0  # 2026-11-22 20:04:32 UTC, a Sunday
PRINTABLE = "".join(chr(code) for code in range(32, 127))


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_daytime_of_now_is_right(end: bytes) -> None:
    assert answers.is_daytime(b"Sunday, November 22, 2026 20:04:32-UTC" + end, NOW)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"Sunday, November 22, 2026 20:04:32-UTC",
        b"Sunday, November 22, 2026 21:04:32-UTC\r\n",
        b"Sunday, November 22, 2025 20:04:32-UTC\r\n",
        b"Sunday, Brumaire 22, 2026 20:04:32-UTC\r\n",
        b"Sunday, November 22, 2026 20:04:32-UTC\r\nmore",
    ],
)
def test_another_daytime_is_wrong(reply: bytes) -> None:
    assert not answers.is_daytime(reply, NOW)


def test_time_counts_from_1900() -> None:
    seconds = int(NOW) + answers.RFC_868_EPOCH
    assert answers.is_time(seconds.to_bytes(4, "big"), NOW)
    assert not answers.is_time(int(NOW).to_bytes(4, "big"), NOW)
    assert not answers.is_time(seconds.to_bytes(4, "little"), NOW)
    assert not answers.is_time(seconds.to_bytes(8, "big"), NOW)


def test_time_goes_on_after_its_four_bytes_wrap() -> None:
    after = 2_085_978_496 + 10  # ten seconds past the wrap of 2036
    assert answers.is_time((10).to_bytes(4, "big"), float(after))


def test_a_quote_is_short_and_says_something() -> None:
    assert answers.is_quote(b"Festina lente.\r\n")
    assert not answers.is_quote(b"")
    assert not answers.is_quote(b"\r\n")
    assert not answers.is_quote(b"x" * 512)


@pytest.mark.parametrize("first", [0, 1, 94])
def test_the_pattern_goes_round_one_character_further_each_line(first: int) -> None:
    lines = [(PRINTABLE * 3)[(first + number) % 95 :][:72].encode() for number in range(95)]
    assert answers.is_pattern(lines)
    assert not answers.is_pattern([*lines[:5], lines[4]])
    assert not answers.is_pattern([*lines[:5], lines[5][:-1]])


def test_no_pattern_is_wrong() -> None:
    assert not answers.is_pattern([])
    assert not answers.is_pattern([b""])
    assert not answers.is_pattern([b"\x00" * 72])


def test_the_greeting_of_somebody_else_is_told_apart() -> None:
    mine, other = b"user-0123456789abcdef", b"user-fedcba9876543210"
    assert answers.hello(mine) == b"Hello, user-0123456789abcdef!"
    assert answers.is_hello(answers.hello(other))
    assert not answers.is_hello(b"Hello, World!")
