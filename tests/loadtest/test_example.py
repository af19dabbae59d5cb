from __future__ import annotations

from prefork_loadtest.example import BEFORE, MOST_SHOWN, WrongAnswer, facts
from prefork_loadtest.ledger import Ledger


def test_what_is_short_is_shown_whole() -> None:
    shown = WrongAnswer(b"a\r", b"A", b"\x00").shown()
    assert shown == {"asked": "b'a\\r'", "expected": "b'A'", "came": "b'\\x00'"}


def test_what_is_long_is_shown_from_where_it_differs() -> None:
    right = b"x" * 5000
    wrong = right[:3000] + b"y" + right[3001:]
    shown = WrongAnswer(right, right, wrong).shown()
    assert shown["asked"] == f"b'{'x' * MOST_SHOWN}'… (5000 bytes)"
    assert shown["came"] == f"…b'{'x' * BEFORE}y{'x' * (MOST_SHOWN - BEFORE - 1)}'… (5000 bytes)"
    assert shown["expected"] == f"…b'{'x' * MOST_SHOWN}'… (5000 bytes)"


def test_an_end_that_is_missing_is_shown() -> None:
    shown = WrongAnswer(b"", b"x" * 100, b"x" * 99).shown()
    assert (shown["expected"], shown["came"]) == (f"…b'{'x' * 21}' (100 bytes)", f"…b'{'x' * 20}' (99 bytes)")


def test_where_only_the_scenario_knows_what_is_right_that_is_said() -> None:
    assert facts(WrongAnswer(b"1", None, b"2").shown())["expected"] == "what the scenario's own check takes for right"


def test_of_many_wrong_answers_the_first_is_kept_and_merged_and_books_without_one_can_be_read() -> None:
    worker, master = Ledger(), Ledger()
    for number in (b"1", b"2"):
        worker.exemplify(WrongAnswer(number, None, b""))
    master.merge(worker.take())
    assert worker.example is None
    assert master.example is not None
    assert master.example["asked"] == "b'1'"
    older = dict(master.encode())
    del older["example"]
    master.merge(older)  # type: ignore[arg-type]
