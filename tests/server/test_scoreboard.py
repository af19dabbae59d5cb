from __future__ import annotations

import os

from prefork.scoreboard import ROWS, Field, Phase, Reading, Scoreboard


def test_rows_do_not_overlap_and_read_back_what_was_written() -> None:
    board = Scoreboard()
    for index in (0, 1, ROWS - 1):
        for field in Field:
            board.row(index).cells[field] = index * 100 + field
    for index in (0, 1, ROWS - 1):
        assert board.row(index).read() == tuple(index * 100 + field for field in Field)
    board.row(1).clear()
    assert board.row(1).read() == Reading()
    assert board.row(0).read()[Field.ERRORS] == Field.ERRORS


def test_reading_has_a_name_for_every_field_in_their_order() -> None:
    assert len(Reading._fields) == len(Field)
    for name, field in zip(Reading._fields, Field, strict=True):
        assert name.startswith(field.name.lower())


def test_child_writes_what_its_parent_reads() -> None:
    board = Scoreboard()
    pid = os.fork()
    if pid == 0:
        board.row(3).beat()
        board.row(3).cells[Field.PHASE] = Phase.FULL
        os._exit(0)
    os.waitpid(pid, 0)
    reading = board.row(3).read()
    assert reading.phase is Phase.FULL
    assert reading.beat_s > 0


def test_nonsense_in_a_row_is_read_without_harm() -> None:
    board = Scoreboard()
    board.row(0).cells[Field.PHASE] = -77
    assert board.row(0).read().phase is Phase.BOOTING
