from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest.failure import EXPLANATIONS, Failure, RequestFailed
from prefork_loadtest.proof import LEAST_BYTES, MOST_BYTES, SIZES, Prover, build, check, sender

NONCES = st.integers(0, 2**64 - 1)
SEQUENCES = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(LEAST_BYTES, 2000)


@given(NONCES, SEQUENCES, LENGTHS)
def test_request_has_its_size_names_its_sender_and_is_one_printable_line(nonce: int, sequence: int, size: int) -> None:
    request = build(nonce, sequence, size)
    assert len(request) == size
    assert sender(request) == (nonce, sequence)
    assert all(32 <= byte < 127 for byte in request)


@given(NONCES, SEQUENCES, LENGTHS)
def test_the_echo_of_a_request_is_right(nonce: int, sequence: int, size: int) -> None:
    request = build(nonce, sequence, size)
    assert check(request, bytes(request)) is None


@given(NONCES, SEQUENCES, LENGTHS, st.data())
def test_any_flipped_bit_is_a_wrong_answer(nonce: int, sequence: int, size: int, data: st.DataObject) -> None:
    request = build(nonce, sequence, size)
    place = data.draw(st.integers(0, size - 1))
    flipped = bytearray(request)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    assert check(request, bytes(flipped)) is Failure.WRONG_ANSWER


@given(NONCES, NONCES, SEQUENCES, LENGTHS)
def test_another_nonce_is_cross_talk(nonce: int, other: int, sequence: int, size: int) -> None:
    expected = None if nonce == other else Failure.CROSS_TALK
    assert check(build(nonce, sequence, size), build(other, sequence, size)) is expected


def test_an_earlier_request_of_the_same_user_is_cross_talk() -> None:
    prover = Prover(7)
    first, second = prover.next(), prover.next()
    assert check(second, first) is Failure.CROSS_TALK


@given(LENGTHS, st.data())
def test_a_whole_frame_of_another_length_is_a_wrong_answer(size: int, data: st.DataObject) -> None:
    request = build(1, 1, size)
    assert check(request, request[: data.draw(st.integers(0, size - 1))]) is Failure.WRONG_ANSWER
    assert check(request, request + b"x") is Failure.WRONG_ANSWER


@pytest.mark.parametrize("size", [LEAST_BYTES - 1, MOST_BYTES + 1])
def test_a_size_that_the_form_cannot_say_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="bytes, not"):
        build(1, 1, size)


def test_a_user_sends_every_size_in_turn_and_never_the_same_request() -> None:
    prover = Prover(1)
    requests = [prover.next() for _ in range(2 * len(SIZES))]
    assert [len(request) for request in requests] == [*SIZES, *SIZES]
    assert len(set(requests)) == len(requests)


def test_every_class_of_failure_has_one_text_without_figures() -> None:
    assert set(EXPLANATIONS) == set(Failure)
    texts = [str(RequestFailed(failure)) for failure in Failure]
    assert len(set(texts)) == len(texts)
    assert not any(character.isdigit() for text in texts for character in text)
