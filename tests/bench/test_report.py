"""Medians, ratios, lines that hold or do not, and the pages and pictures made of them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from bench.cost import Account, Sample, neighbours
from bench.load import FORMS, Answers
from bench.measure import spread
from bench.servers import CONVERSATION, GO, LIMIT, PEER_SERVERS, REPLY

from bench import asked, report, results

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Curve, Results, Row

ANSWERS = Answers(20_000.0, 0.2, 0.9, 1.1)


def row(*us: float, base: tuple[float, ...] = (10.0, 10.0, 10.0)) -> Row:
    """A server that took so many microseconds, round by round, in every form."""
    account = Account([Sample(one, ANSWERS) for one in us], [one / other for one, other in zip(us, base, strict=True)])
    return {"processes": 1, "forms": {form: account.cost() for form in FORMS}}


def curve(*us: float) -> Curve:
    """A `@reply` and C that took so many microseconds at 100 and at 15,000 connections."""
    points: list[results.Point] = [
        {"x": float(x), "us": spread([value]), "per_second": 1e6 / value}
        for x, value in zip((100, 15_000), us, strict=True)
    ]
    return {LIMIT.name: points, REPLY.name: points}


@pytest.fixture
def found() -> Results:
    """Results in which not all was measured, and one peer was not there."""
    return {
        "facts": {"command": "python -m bench"},
        "versions": {"C, epoll": "cc 1"},
        "missing": {"Tornado TCPServer": "tornado is not installed: `make bench-peers`"},
        "cost": {
            LIMIT.name: row(10, 10, 10),
            REPLY.name: row(12, 12, 30),
            CONVERSATION.name: row(50, 50, 50),
            GO.name: row(13, 13, 13),
            PEER_SERVERS[1].name: row(40, 40, 40),
        },
        "growth": {"connections": curve(10, 12)},
    }


def lines(found: Results) -> dict[str, asked.Line]:
    """The lines by their texts."""
    return {line.text: line for line in asked.lines(found)}


def test_a_ratio_is_the_median_of_the_rounds_and_its_spread_is_kept() -> None:
    cost = row(12, 20, 90, base=(10.0, 10.0, 50.0))["forms"]["keep-alive"]
    assert cost["ratio"]["median"] == 1.8
    assert (cost["ratio"]["low"], cost["ratio"]["high"]) == (1.2, 2.0)
    assert cost["us"]["median"] == 20


def test_every_server_is_measured_once_a_round_and_neighbours_change_sides() -> None:
    first, second = (list(neighbours(PEER_SERVERS, number)) for number in (0, 1))
    assert [server for pair in first for server in pair] == list(PEER_SERVERS)
    assert [pair[::-1] for pair in second] == first


def test_each_line_says_whether_it_holds_and_what_was_not_measured_does_neither(found: Results) -> None:
    told = lines(found)
    assert told["`@reply` against C, keep-alive"].holds is True
    assert told["`@conversation` against C, keep-alive"].holds is False
    assert told["`@conversation` below every Python, Perl and Ruby peer, in every form"].holds is False
    assert told["`@reply`, cost at 15,000 open connections against 100"].holds is False
    assert told["`@reply`, an idle connection"].holds is None
    assert told["`@reply`, an idle connection"].figure == "not measured"


def test_growth_is_told_only_where_both_ends_were_measured(found: Results) -> None:
    del found["growth"]["connections"][REPLY.name][1]
    assert lines(found)["`@reply`, cost at 15,000 open connections against 100"].holds is None


def test_two_workers_hold_by_the_form_in_which_they_carry_least(found: Results) -> None:
    line = "`@reply`, two workers on two CPUs against one, in every form"
    assert lines(found)[line].holds is None
    found["scaling"] = {REPLY.name: {"keep-alive": spread([1.8, 1.9, 1.95]), "connection each": spread([1.6])}}
    assert lines(found)[line].holds is False
    assert lines(found)[line].figure == "1.60× at least (connection each)"
    assert "| @reply | 1.90× (1.80–1.95) | 1.60× (1.60–1.60) |" in report.text(found)
    found["scaling"][REPLY.name]["connection each"] = spread([1.7])
    assert lines(found)[line].holds is True


def test_a_peer_that_is_missing_is_on_the_page_with_reason_and_cure(found: Results) -> None:
    page = report.text(found)
    assert "- Tornado TCPServer: tornado is not installed: `make bench-peers`" in page.partition("## Not measured")[2]


def test_a_report_is_a_page_its_pictures_and_the_results(found: Results, tmp_path: Path) -> None:
    report.write(found, tmp_path)
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "12 (1.20×, 1.20–3.00)" in page
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == found
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawn == [
        "cost-connection-each.svg", "cost-keep-alive.svg", "cost-pipelined-by-16.svg", "growth-connections.svg",
    ]  # fmt: skip
    for name in drawn:
        assert f"({name})" in page


def test_a_picture_is_well_formed_names_its_servers_and_reads_in_light_and_dark(found: Results) -> None:
    for svg in report.pictures(found).values():
        root = ET.fromstring(svg)  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        words = "".join(root.itertext())
        assert REPLY.name in words
        assert LIMIT.name in words
        assert "prefers-color-scheme: dark" in words
