"""The framings: whatever comes, and however it is cut, the same frames come out, and no more is held than the limit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.given import Given, pieces
from prefork_wire import (
    Delimited,
    FixedSize,
    FrameError,
    FrameTruncated,
    LengthPrefixed,
    Lines,
    Netstring,
    Raw,
    all_encoder,
    cut_one_by_one,
    cutter,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefork_wire import Decoder, Framing

LONGEST: Final = 400
LIMIT: Final = 16
FRAMINGS: Final[tuple[tuple[Framing, int], ...]] = (
    (Lines(LIMIT), LIMIT + 1),
    (Lines(LIMIT, b"\n"), LIMIT + 1),
    (Lines(1), 2),
    (Delimited(b"\0", LIMIT), LIMIT),
    (Delimited(b"END", LIMIT), LIMIT + 2),
    (Delimited(b"aab", 1), 3),
    (LengthPrefixed(1, max_length=LIMIT), LIMIT),
    (LengthPrefixed(2, "little", LIMIT), LIMIT + 1),
    (LengthPrefixed(4, max_length=LIMIT), LIMIT + 3),
    (LengthPrefixed(8, max_length=1 << 62), 1 << 62),
    (FixedSize(1), 0),
    (FixedSize(5), 4),
    (Netstring(9), 11),
    (Netstring(LIMIT), LIMIT + 3),
    (Netstring(120), 124),
    (Raw(LIMIT), 0),
)
"""Each framing, and how many bytes of an unfinished frame its decoder may hold."""

WORDS: Final = (b"\r\n", b"\n", b"\r", b"\0", b"END", b"aab", b"0:,", b"1:a,", b"120:", b"\0\0\0\1")


class Outcome(NamedTuple):
    """What came of a stream: its frames, then the error in words, or the bytes that make no frame yet."""

    frames: list[bytes]
    error: tuple[type[FrameError], str] | None
    rest: bytes


def check(data: bytes) -> None:
    """Cut the rest of `data` by one of the framings, in every way."""
    given = Given(data)
    framing, bound = FRAMINGS[given.below(len(FRAMINGS))]
    seed = given.below(256)
    stream = given.rest()
    check_framing(framing, bound, stream, seed)
    check_payload(framing, stream)


def check_framing(framing: Framing, bound: int, stream: bytes, seed: int) -> None:
    """Fail unless all ways to read `stream` come to the same, and none holds more than `bound` between two chunks."""
    expected = _take(framing.decoder(), pieces(stream, 0), bound)
    for how, ways in ((0, (_cut, _cut_singly)), (1, (_take, _cut)), (seed, (_take, _cut, _cut_singly))):
        for read in ways:
            found = read(framing.decoder(), pieces(stream, how), bound)
            if isinstance(framing, Raw):  # its pieces are what arrived together
                assert b"".join(found.frames) == stream
                assert not found.error
                assert max(map(len, found.frames), default=0) <= LIMIT
            else:
                assert found == expected, f"{read.__name__} of {framing}, cut by {how}: {found}, not {expected}"
    assert expected.error or stream.endswith(expected.rest)
    for frame in dict.fromkeys(expected.frames):
        check_payload(framing, frame)
    encode_all = all_encoder(framing)
    assert _encoded(lambda: encode_all(expected.frames)) == _encoded(
        lambda: b"".join(map(framing.encode, expected.frames))
    )


def check_payload(framing: Framing, payload: bytes) -> None:
    """Fail unless a payload that can be sent arrives as it was, and one that cannot is refused in words of our own."""
    try:
        frame = framing.encode(payload)
    except FrameError as error:
        assert str(error).isprintable()
        return
    decoder = framing.decoder()
    decoder.feed(frame)
    taken = b"".join(iter(decoder.take, None)) if isinstance(framing, Raw) else decoder.take()
    assert taken == payload, f"{framing} made {taken!r} of {payload!r}"
    assert decoder.take() is None
    decoder.end()


def _encoded(encode: object) -> object:
    try:
        return encode()  # type: ignore[operator] # a function without arguments
    except FrameError as error:
        return type(error)


def _take(decoder: Decoder, chunks: Iterable[bytes], bound: int) -> Outcome:
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            while (frame := decoder.take()) is not None:
                frames.append(frame)
            _is_bounded(decoder, bound)
    except FrameError as error:
        return _failed(decoder, frames, error)
    return _ended(decoder, frames)


def _cut(decoder: Decoder, chunks: Iterable[bytes], bound: int, *, singly: bool = False) -> Outcome:
    cut = partial(cut_one_by_one, decoder, most=1) if singly else cutter(decoder).cut
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            some = cut(chunk)
            while some:
                frames += some
                some = cut(b"")
            _is_bounded(decoder, bound)
    except FrameError as error:
        return _failed(decoder, [*frames, *error.frames], error)
    return _ended(decoder, frames)


def _cut_singly(decoder: Decoder, chunks: Iterable[bytes], bound: int) -> Outcome:
    return _cut(decoder, chunks, bound, singly=True)


def _is_bounded(decoder: Decoder, bound: int) -> None:
    assert decoder.buffered <= bound, f"{decoder} holds {decoder.buffered} bytes, its bound is {bound}"


def _failed(decoder: Decoder, frames: list[bytes], error: FrameError) -> Outcome:
    """Fail unless a decoder that has failed holds nothing and fails the same way for good."""
    decoder.feed(b"1:a,\n")
    again = ""
    try:
        decoder.take()
    except FrameError as second:
        again = str(second)
    assert again == str(error)
    assert again.isprintable()
    assert decoder.buffered == 0
    return Outcome(frames, (type(error), str(error)), b"")


def _ended(decoder: Decoder, frames: list[bytes]) -> Outcome:
    """Fail unless the end is an error exactly in the middle of a frame, and what is held can be had back."""
    buffered = decoder.buffered
    rest = decoder.rest()
    assert len(rest) == buffered
    decoder.feed(rest)
    assert decoder.take() is None
    truncated = False
    try:
        decoder.end()
    except FrameTruncated:
        truncated = True
    assert truncated == bool(rest)
    return Outcome(frames, None, rest)
