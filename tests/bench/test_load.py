"""What redis-benchmark is asked, and how what it prints is read; against the real one where it is there."""

from __future__ import annotations

import socket
import threading

import pytest
from bench.load import FORMS, KEEP_ALIVE, LoadError, connect, parse, request_of, run
from bench.running import free_port

from support import clients

PRINTED = """\
====== PING_INLINE ======
  1000 requests completed in 0.05 seconds

Latency by percentile distribution:
0.000% <= 0.047 milliseconds (cumulative count 1)
50.000% <= 0.207 milliseconds (cumulative count 504)
75.000% <= 0.263 milliseconds (cumulative count 753)
99.219% <= 0.911 milliseconds (cumulative count 993)
99.902% <= 1.103 milliseconds (cumulative count 1000)
100.000% <= 1.203 milliseconds (cumulative count 1000)

Cumulative distribution of latencies:
10.000% <= 99.999 milliseconds (cumulative count 100)

Summary:
  throughput summary: 20000.50 requests per second
"""


def test_throughput_and_the_percentiles_at_or_above_those_asked_for_are_read() -> None:
    answers = parse(PRINTED)
    assert answers.per_second == 20000.5
    assert (answers.p50_ms, answers.p99_ms, answers.p999_ms) == (0.207, 0.911, 1.103)


@pytest.mark.parametrize(
    "printed", ["", "throughput summary: 1.00 requests per second", PRINTED.partition("Summary")[0]]
)
def test_what_has_no_figures_is_an_error_and_not_a_zero(printed: str) -> None:
    with pytest.raises(LoadError, match="printed no figures"):
        parse(printed)


@pytest.mark.parametrize("frame", [16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576])
def test_a_request_has_exactly_the_bytes_asked_for(frame: int) -> None:
    words, typed = request_of(frame)
    parts = [word.encode() for word in words if word != "-x"] + ([typed] if typed else [])
    sent = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    assert len(sent) == frame


def test_a_connection_that_is_answered_wrongly_is_an_error() -> None:
    def answer(listener: socket.socket) -> None:
        conn, _ = listener.accept()
        with conn:
            conn.recv(64)
            conn.sendall(b"-ERR!\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        with pytest.raises(LoadError, match="was answered by"):
            connect(listener.getsockname()[1])
        thread.join()


def test_a_load_that_is_not_answered_in_time_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clients.find("redis-benchmark")
    monkeypatch.setattr("bench.load.TIMEOUT_S", 1)
    with pytest.raises(LoadError, match="was not answered 10 times in 1 s") as caught:
        run(free_port(), 10, FORMS[KEEP_ALIVE])
    assert "\n" not in str(caught.value)
