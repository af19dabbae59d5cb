"""Every framing, however its bytes arrive."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_wire import (
    Decoder,
    Delimited,
    FixedSize,
    FrameError,
    FrameInvalid,
    FrameTooLarge,
    FrameTruncated,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Raw,
    all_encoder,
    cutter,
)


@dataclass(frozen=True)
class Case:
    """What arrives, which frames come out, and the error after them, if any."""

    framing: Framing
    arrives: bytes
    frames: list[bytes]
    error: type[FrameError] | None = None


CASES = {
    "line with LF": Case(Lines(), b"one\n", [b"one"]),
    "line with CRLF": Case(Lines(), b"one\r\n", [b"one"]),
    "empty lines": Case(Lines(), b"\n\r\n", [b"", b""]),
    "empty line before an unfinished one": Case(Lines(), b"\none\r", [b""]),
    "lines of both kinds": Case(Lines(), b"one\r\ntwo\n\nthree\r\n", [b"one", b"two", b"", b"three"]),
    "only the last CR is the terminator's": Case(Lines(), b"\rone\r\r\n", [b"\rone\r"]),
    "line of the limit with LF": Case(Lines(4), b"four\n", [b"four"]),
    "line of the limit with CRLF": Case(Lines(4), b"four\r\nfour\r\n", [b"four", b"four"]),
    "line over the limit": Case(Lines(4), b"one\nfives\n", [b"one"], FrameTooLarge),
    "line over the limit without an end": Case(Lines(4), b"fives", [], FrameTooLarge),
    "line over the limit by its CR": Case(Lines(4), b"four\rx", [], FrameTooLarge),
    "line over the limit that ends with CR": Case(Lines(4), b"fives\r", [], FrameTooLarge),
    "line that may still be CRLF": Case(Lines(4), b"four\r", []),
    "delimiter of one byte": Case(Delimited(b"\0"), b"one\0two\0", [b"one", b"two"]),
    "delimiter of several bytes": Case(Delimited(b"END"), b"oneENDtwoEEND", [b"one", b"twoE"]),
    "delimiter that repeats itself": Case(Delimited(b"aab"), b"aaabaab", [b"a", b""]),
    "delimited of the limit": Case(Delimited(b"END", 4), b"fourENDfourEND", [b"four", b"four"]),
    "delimited over the limit": Case(Delimited(b"END", 4), b"fourENDfivesEND", [b"four"], FrameTooLarge),
    "delimited over the limit without an end": Case(Delimited(b"END", 4), b"fives", [], FrameTooLarge),
    "delimited over the limit with an end begun": Case(Delimited(b"END", 4), b"fivesE", [], FrameTooLarge),
    "delimited that may still end": Case(Delimited(b"END", 4), b"fourEN", []),
    "length of 1 byte": Case(LengthPrefixed(1), b"\x03one\x00", [b"one", b""]),
    "length of 2 bytes": Case(LengthPrefixed(2), b"\x00\x03one\x00\x03two", [b"one", b"two"]),
    "length of 4 bytes, little": Case(LengthPrefixed(4, "little"), b"\x03\0\0\0one", [b"one"]),
    "length of 8 bytes": Case(LengthPrefixed(8), b"\0\0\0\0\0\0\0\x03one", [b"one"]),
    "length of the limit": Case(LengthPrefixed(1, max_length=4), b"\x04four", [b"four"]),
    "length over the limit": Case(LengthPrefixed(1, max_length=4), b"\x03one\x05", [b"one"], FrameTooLarge),
    "length over the limit with its body": Case(LengthPrefixed(1, max_length=4), b"\x05fives", [], FrameTooLarge),
    "length of all ones": Case(LengthPrefixed(8), b"\xff" * 8, [], FrameTooLarge),
    "fixed size": Case(FixedSize(3), b"onetwo", [b"one", b"two"]),
    "netstring": Case(Netstring(), b"3:one,0:,12:hello world!,", [b"one", b"", b"hello world!"]),
    "netstring of the limit": Case(Netstring(10), b"10:0123456789,", [b"0123456789"]),
    "netstring over the limit": Case(Netstring(10), b"3:one,11", [b"one"], FrameTooLarge),
    "netstring over the limit with its body": Case(Netstring(10), b"11:hello world,", [], FrameTooLarge),
    "netstring over the limit's digits": Case(Netstring(10), b"100", [], FrameTooLarge),
    "netstring over the limit before it is invalid": Case(Netstring(10), b"11x", [], FrameTooLarge),
    "netstring with a leading zero": Case(Netstring(), b"03:one,", [], FrameInvalid),
    "netstring of many zeros": Case(Netstring(), b"00", [], FrameInvalid),
    "netstring without a length": Case(Netstring(), b"3:one,:", [b"one"], FrameInvalid),
    "netstring with a sign": Case(Netstring(), b"+3:one,", [], FrameInvalid),
    "netstring with a space": Case(Netstring(), b"3 :one,", [], FrameInvalid),
    "netstring without its comma": Case(Netstring(), b"3:one.", [], FrameInvalid),
}

ENDLESS: dict[str, Case] = {name: case for name, case in CASES.items() if case.error is None}
FAILING: dict[str, Case] = {name: case for name, case in CASES.items() if case.error is not None}

Chunks = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


def in_two_halves(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


def with_nothing_between(data: bytes) -> Iterator[bytes]:
    for byte in byte_by_byte(data):
        yield b""
        yield byte


def take_after_feeding(decoder: Decoder, chunk: bytes) -> Iterator[bytes]:
    decoder.feed(chunk)
    yield from iter(decoder.take, None)


def cut(decoder: Decoder, chunk: bytes) -> Iterator[bytes]:
    """Cut as the server does: again only where bytes are left."""
    own = cutter(decoder)
    try:
        yield from own.cut(chunk)
        while own.buffered and (frames := own.cut(b"")):
            yield from frames
    except FrameError as error:
        yield from error.frames
        raise


class OneByOne:
    """A decoder of somebody's own, without cut."""

    def __init__(self, decoder: Decoder) -> None:
        self.take, self.feed, self.end, self.rest = decoder.take, decoder.feed, decoder.end, decoder.rest
        self._decoder = decoder

    @property
    def buffered(self) -> int:
        return self._decoder.buffered


def cut_by_a_decoder_that_takes_one(decoder: Decoder, chunk: bytes) -> Iterator[bytes]:
    return cut(OneByOne(decoder), chunk)


Take = Callable[[Decoder, bytes], Iterator[bytes]]
TAKES: list[Take] = [take_after_feeding, cut, cut_by_a_decoder_that_takes_one]


MANNERS: list[Chunks] = [whole, byte_by_byte, in_two_halves, with_nothing_between]


def outcome(
    framing: Framing, chunks: Iterator[bytes], take: Take = take_after_feeding
) -> tuple[list[bytes], type[FrameError] | None]:
    """Feed all chunks and take all there is after each."""
    decoder = framing.decoder()
    frames = []
    try:
        for chunk in chunks:
            for frame in take(decoder, chunk):
                assert type(frame) is bytes
                frames.append(frame)
    except FrameError as error:
        return frames, type(error)
    return frames, None


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_frames_come_out_however_they_arrive(case: Case, manner: Chunks, take: Take) -> None:
    assert outcome(case.framing, manner(case.arrives), take) == (case.frames, case.error)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_all_frames_come_out_at_once_when_taken_only_at_the_end(case: Case, manner: Chunks) -> None:
    decoder = case.framing.decoder()
    for chunk in manner(case.arrives):
        decoder.feed(chunk)
    frames: list[bytes] = []
    with pytest.raises(case.error) if case.error else nullcontext():
        frames.extend(cut(decoder, b""))
    assert frames == case.frames


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_frames_come_out_when_taken_only_at_the_end(case: Case, manner: Chunks) -> None:
    decoder = case.framing.decoder()
    for chunk in manner(case.arrives):
        decoder.feed(chunk)

    assert [decoder.take() for _ in case.frames] == case.frames
    if case.error is None:
        assert decoder.take() is None
    else:
        with pytest.raises(case.error):
            decoder.take()


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize(
    ("framing", "payload"),
    [
        (Lines(), b"one"),
        (Delimited(b"END"), b"one"),
        (LengthPrefixed(), b"one"),
        (FixedSize(3), b"one"),
        (Netstring(), b"one"),
    ],
)
def test_bytes_of_the_next_frame_wait_for_it(framing: Framing, payload: bytes, manner: Chunks) -> None:
    frame = framing.encode(payload)
    decoder = framing.decoder()
    for cut in range(1, len(frame)):
        frames = []
        for chunk in manner(frame + frame[:cut]):
            decoder.feed(chunk)
            while (taken := decoder.take()) is not None:
                frames.append(taken)
        assert frames == [payload]
        assert decoder.buffered == cut
        decoder.feed(frame[cut:])
        assert decoder.take() == payload
        assert decoder.take() is None
        assert decoder.buffered == 0


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING.keys())
def test_a_failed_decoder_fails_for_good_and_holds_nothing(case: Case) -> None:
    decoder = case.framing.decoder()
    decoder.feed(case.arrives)
    for _ in case.frames:
        decoder.take()
    assert case.error is not None
    with pytest.raises(case.error) as first:
        decoder.take()

    decoder.feed(b"1:a,\n")

    assert decoder.buffered == 0
    assert decoder.rest() == b""
    with pytest.raises(case.error) as second:
        decoder.take()
    with pytest.raises(case.error) as third:
        decoder.end()
    assert str(first.value) == str(second.value) == str(third.value)


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING.keys())
def test_the_message_never_shows_the_payload(case: Case) -> None:
    decoder = case.framing.decoder()
    decoder.feed(case.arrives)
    for _ in case.frames:
        decoder.take()
    with pytest.raises(FrameError) as failed:
        decoder.take()
    assert not any(word in str(failed.value) for word in ("five", "one", "four"))


@pytest.mark.parametrize("case", ENDLESS.values(), ids=ENDLESS.keys())
def test_the_end_is_clean_only_between_frames(case: Case) -> None:
    decoder = case.framing.decoder()
    decoder.feed(case.arrives)
    while decoder.take() is not None:
        pass
    if not decoder.buffered:
        decoder.end()
        return
    with pytest.raises(FrameTruncated):
        decoder.end()
    with pytest.raises(FrameTruncated):
        decoder.take()


def test_the_end_before_the_first_byte_is_clean() -> None:
    for framing in (Lines(), Delimited(b"\0"), LengthPrefixed(), FixedSize(3), Netstring(), Raw()):
        decoder = framing.decoder()
        decoder.feed(b"")
        decoder.end()
        assert decoder.take() is None


def test_the_end_within_a_length_is_truncation() -> None:
    decoder = LengthPrefixed(4).decoder()
    decoder.feed(b"\0")
    assert decoder.take() is None
    with pytest.raises(FrameTruncated):
        decoder.end()


@pytest.mark.parametrize("manner", MANNERS)
def test_the_rest_goes_on_with_another_framing(manner: Chunks) -> None:
    first = Lines().decoder()
    for chunk in manner(b"binary\r\n\x00\x03o"):
        first.feed(chunk)
    assert first.take() == b"binary"

    second = LengthPrefixed(2).decoder()
    second.feed(first.rest())
    assert first.buffered == 0
    assert first.take() is None
    assert second.take() is None
    second.feed(b"ne")

    assert second.take() == b"one"


def test_the_rest_includes_what_arrived_behind_a_whole_frame() -> None:
    decoder = Lines().decoder()
    decoder.feed(b"one\ntwo\nthr")
    assert decoder.take() == b"one"
    decoder.feed(b"ee\n")

    assert decoder.buffered == len(b"two\nthree\n")
    assert decoder.rest() == b"two\nthree\n"


def test_raw_hands_on_what_arrived_cut_to_its_limit() -> None:
    assert outcome(Raw(4), whole(b"0123456789")) == ([b"0123", b"4567", b"89"], None)
    assert outcome(Raw(4), byte_by_byte(b"01")) == ([b"0", b"1"], None)
    assert Raw(4).encode(b"0123456789") == b"0123456789"


def test_a_megabyte_in_single_bytes_is_copied_a_bounded_number_of_times() -> None:
    """Quadratic copying would move 2 * 10^11 bytes here: minutes, where this takes a second."""
    size = 1 << 20
    for framing in (LengthPrefixed(max_length=size), Lines(size), Delimited(b"\r\n", size), Netstring(size)):
        decoder = framing.decoder()
        for byte in byte_by_byte(framing.encode(bytes(size))[:-1]):
            decoder.feed(byte)
            assert decoder.take() is None
        assert decoder.buffered >= size - 1


def test_a_length_is_refused_before_its_body_arrives() -> None:
    decoder = LengthPrefixed(max_length=10).decoder()
    decoder.feed(b"\0\0\0\x0b")
    with pytest.raises(FrameTooLarge, match="11 bytes, the limit is 10"):
        decoder.take()


@pytest.mark.parametrize(
    ("framing", "payload", "frame"),
    [
        (Lines(), b"one", b"one\r\n"),
        (Lines(newline=b"\n"), b"one", b"one\n"),
        (Lines(3), b"one", b"one\r\n"),
        (Lines(), b"one\r", b"one\r\r\n"),
        (Delimited(b"END"), b"one", b"oneEND"),
        (LengthPrefixed(2, "little"), b"one", b"\x03\0one"),
        (LengthPrefixed(1), bytes(255), b"\xff" + bytes(255)),
        (FixedSize(3), b"one", b"one"),
        (Netstring(), b"", b"0:,"),
        (Netstring(), b"hello world!", b"12:hello world!,"),
    ],
)
def test_a_payload_becomes_one_frame(framing: Framing, payload: bytes, frame: bytes) -> None:
    assert framing.encode(payload) == frame


@pytest.mark.parametrize(
    ("framing", "payload", "error"),
    [
        (Lines(3), b"four", FrameTooLarge),
        (Lines(), b"a\nb", FrameInvalid),
        (Lines(newline=b"\n"), b"a\r", FrameInvalid),
        (Delimited(b"END", 3), b"four", FrameTooLarge),
        (Delimited(b"END"), b"anENDed", FrameInvalid),
        (Delimited(b"aa"), b"a", FrameInvalid),
        (LengthPrefixed(1), bytes(256), FrameTooLarge),
        (LengthPrefixed(max_length=3), b"four", FrameTooLarge),
        (FixedSize(3), b"four", FrameTooLarge),
        (FixedSize(3), b"tw", FrameInvalid),
        (Netstring(3), b"four", FrameTooLarge),
    ],
)
def test_a_payload_that_makes_no_frame_is_refused(framing: Framing, payload: bytes, error: type[FrameError]) -> None:
    with pytest.raises(error):
        framing.encode(payload)
    for payloads in ([payload], [payload, payload]):
        with pytest.raises(error):
            all_encoder(framing)([*payloads])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lines(0),
        lambda: Lines(newline=b"\r"),
        lambda: Delimited(b""),
        lambda: Delimited(b"\0", -1),
        lambda: LengthPrefixed(3),  # type: ignore[arg-type]
        lambda: LengthPrefixed(byteorder="middle"),  # type: ignore[arg-type]
        lambda: LengthPrefixed(max_length=0),
        lambda: FixedSize(0),
        lambda: Netstring(0),
        lambda: Raw(0),
    ],
)
def test_a_framing_that_cannot_work_is_refused(make: Callable[[], Framing]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()


def few(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.lists(payloads, max_size=8)


def delimited_payloads(delimiter: bytes) -> st.SearchStrategy[list[bytes]]:
    return few(TRICKY.filter(lambda payload: (payload + delimiter).find(delimiter) == len(payload)))


ANY = st.binary(max_size=40)
# Few different bytes, so that delimiters and their beginnings are met often.
TRICKY = st.text("ab\r\0", max_size=12).map(str.encode)
ROUND_TRIPS: list[st.SearchStrategy[tuple[Framing, list[bytes]]]] = [
    st.tuples(st.just(Lines(40)), few(TRICKY | ANY.map(lambda line: line.replace(b"\n", b"")))),
    st.tuples(st.just(Lines(40, b"\n")), few(TRICKY.map(lambda line: line.rstrip(b"\r")))),
    *(st.tuples(st.just(Delimited(mark, 40)), delimited_payloads(mark)) for mark in (b"\0", b"ab", b"aab", b"\r\0\r")),
    st.tuples(st.sampled_from([LengthPrefixed(1), LengthPrefixed(4), LengthPrefixed(8, "little")]), few(ANY)),
    st.tuples(st.just(FixedSize(3)), few(st.binary(min_size=3, max_size=3))),
    st.tuples(st.just(Netstring(40)), few(ANY)),
]


@given(st.one_of(ROUND_TRIPS), st.data())
def test_what_is_encoded_is_decoded_over_any_chunks(sent: tuple[Framing, list[bytes]], data: st.DataObject) -> None:
    framing, payloads = sent
    stream = b"".join(map(framing.encode, payloads))
    decoder = framing.decoder()
    frames: list[bytes] = []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6), label="cuts"))
    # After each chunk take only a few: a server that works on a frame leaves the others where they are.
    taken = data.draw(st.lists(st.integers(0, 3), min_size=len(cuts), max_size=len(cuts)), label="taken")
    for start, end, most in zip([0, *cuts], [*cuts, len(stream)], [*taken, len(payloads) + 1], strict=True):
        decoder.feed(stream[start:end])
        frames += itertools.islice(iter(decoder.take, None), most)
    decoder.end()

    assert frames == payloads


@given(st.one_of(ROUND_TRIPS), st.data())
def test_taking_all_and_taking_one_may_be_mixed(sent: tuple[Framing, list[bytes]], data: st.DataObject) -> None:
    framing, payloads = sent
    stream = all_encoder(framing)(payloads)
    assert stream == b"".join(map(framing.encode, payloads))
    decoder = framing.decoder()
    own = cutter(decoder)
    frames: list[bytes] = []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6), label="cuts"))
    ones = data.draw(st.lists(st.integers(0, 3), min_size=len(cuts), max_size=len(cuts)), label="taken one by one")
    alls = data.draw(st.lists(st.booleans(), min_size=len(cuts), max_size=len(cuts)), label="then all")
    steps = zip([0, *cuts], [*cuts, len(stream)], [*ones, 0], [*alls, True], strict=True)
    for start, end, single, everything in steps:
        decoder.feed(stream[start:end])
        frames += itertools.islice(iter(decoder.take, None), single)
        while everything and (more := own.cut(b"")):
            frames += more
    decoder.end()

    assert frames == payloads


@given(st.sampled_from(list(CASES.values())), st.binary(), st.data())
def test_no_bytes_do_more_than_fail(case: Case, noise: bytes, data: st.DataObject) -> None:
    stream = case.arrives + noise
    expected = outcome(case.framing, whole(stream))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    chunks = (stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True))

    take = data.draw(st.sampled_from(TAKES))

    assert outcome(case.framing, chunks, take) == expected


STEPS = st.sampled_from(["feed", "take", "cut", "rest"])


@given(st.sampled_from(list(CASES.values())), st.binary(max_size=8), st.lists(st.tuples(STEPS, st.integers(0, 8))))
def test_what_is_held_is_what_was_fed_and_not_taken(case: Case, noise: bytes, steps: list[tuple[str, int]]) -> None:
    stream = case.arrives + noise
    decoder = case.framing.decoder()
    held = b""
    for step, size in steps:
        chunk, stream = (stream[:size], stream[size:]) if step in {"feed", "cut"} else (b"", stream)
        held += chunk
        naive = case.framing.decoder()  # is fed all of it at once, and taken from one by one
        naive.feed(held)
        frames: list[bytes] = []
        failure: type[FrameError] | None = None
        try:
            if step == "feed":
                decoder.feed(chunk)
            elif step == "rest":
                assert decoder.rest() == naive.rest()
            elif step == "take":
                frames = [frame for frame in (decoder.take(),) if frame is not None]
            else:
                frames = cutter(decoder).cut(chunk)
        except FrameError as error:
            frames, failure = list(error.frames), type(error)
        assert [naive.take() for _ in frames] == frames
        if failure is not None:
            with pytest.raises(failure):
                naive.take()
        held = naive.rest() if failure is None else b""
        assert decoder.buffered == len(held)
        if failure is not None:
            return
