"""The command line: `prefork-client send`, `ping` and `chat`.

It owns the options, the exit codes, and what is printed where: replies on standard output, one line for each failure
on standard error. It never shows a traceback for what a user or a peer did.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from prefork_client.client import Client
from prefork_client.errors import ClientError, ConnectFailed, UsageError
from prefork_client.ping import Question, Timing, ping
from prefork_client.session import LONGEST
from prefork_wire import Framing, LengthPrefixed, Lines, Netstring, Raw

OK = 0
PEER_FAILED = 1
USAGE = 2
NEVER_REACHED = 5
INTERRUPTED = 130  # as a shell reports SIGINT
PIPE_CLOSED = 141  # as a shell reports SIGPIPE

FRAMINGS: dict[str, Framing] = {
    "lines": Lines(),
    "lf": Lines(newline=b"\n"),
    "netstring": Netstring(),
    "length1": LengthPrefixed(1),
    "length2": LengthPrefixed(2),
    "length4": LengthPrefixed(4),
    "length8": LengthPrefixed(8),
    "raw": Raw(),
}

# A peer must not drive the terminal: control characters other than the tab become question marks.
_HARMLESS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\t")}, "?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the program's own, and return its exit code.

    0: all went well; 1: the peer answered wrongly, closed or was too slow; 2: usage, or a standard stream that fails;
    5: the peer was never reached; 130 and 141: interrupted, and nobody reads the output any more, both without a word.

    Raises:
        SystemExit: From argparse, with 0 for help and version and 2 for usage.
    """
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ClientError as error:
        return _report(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _flush_nothing_more()
        return PIPE_CLOSED
    except OSError as error:  # those of the network are the client's errors
        _complain(f"standard output: {error.strerror}")
        _flush_nothing_more()
        return USAGE


def _flush_nothing_more() -> None:
    """Let what is still to be written go nowhere: Python flushes once more at exit, and that must not fail aloud."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefork-client",
        description="Talk to a framed TCP service.",
        epilog="Exit codes: 0 ok; 1 the peer answered wrongly, closed or was too slow; 2 usage; 5 never reached.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    common = _Command(add_help=False)
    common.add_argument("address", metavar="ADDRESS", help="HOST:PORT, [IPV6]:PORT, a service as PORT, or unix:/PATH")
    common.add_argument("--framing", choices=FRAMINGS, default="lines", help="how frames are told apart (lines)")
    common.add_argument("--timeout", type=_seconds, default=10.0, metavar="S", help="seconds for a reply (10)")
    common.add_argument("--connect-timeout", type=_seconds, default=5.0, metavar="S", help="to connect (5)")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Command)

    send = commands.add_parser("send", parents=[common], help="send each TEXT as a frame and print each reply")
    send.add_argument("texts", nargs="*", metavar="TEXT", help="what to send; none, or -: the lines of standard input")
    send.set_defaults(command=_send)

    check = commands.add_parser("ping", parents=[common], help="check a service's health with a real request")
    check.add_argument("--count", type=_count, default=1, metavar="N", help="how many times (1)")
    check.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two (1)")
    check.add_argument("--send", type=os.fsencode, metavar="TEXT", help="what to send (a nonce)")
    check.add_argument("--expect", type=os.fsencode, metavar="TEXT", help="the right reply (the nonce; any to --send)")
    check.add_argument("--connect-only", action="store_true", help="ask nothing, for services that speak first")
    check.add_argument("--json", action="store_true", help="print one JSON object for each")
    check.set_defaults(command=_ping)

    talk = commands.add_parser("chat", parents=[common], help="send standard input's lines, print what arrives")
    talk.set_defaults(command=_chat)
    return parser


class _Command(argparse.ArgumentParser):
    """Takes options anywhere, also between ADDRESS and TEXT: argparse alone gives a list its arguments at once."""

    _is_intermixing = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse in argparse's way, and what that leaves over once more with the options taken out first."""
        found, rest = super().parse_known_args(args, namespace)
        if not rest or self._is_intermixing:
            return found, rest
        self._is_intermixing = True  # this very method is what the next one calls
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False


class _Version(argparse.Action):
    """Looks the version up only when asked: importlib.metadata takes longer than the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        _print_line(f"{parser.prog} {version('prefork-client')}")
        parser.exit()


def _send(options: argparse.Namespace) -> int:
    with Client(options.address, **_settings(options)) as client:
        for payload in _payloads(options.texts):
            _print(client.request(payload))
    return OK


def _payloads(texts: Sequence[str]) -> Iterator[bytes]:
    for text in texts or ["-"]:
        if text == "-":
            yield from _without_newline(_standard_input().buffer)
        else:
            yield os.fsencode(text)


def _standard_input() -> TextIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin


def _without_newline(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _ping(options: argparse.Namespace) -> int:
    if options.connect_only and (options.send is not None or options.expect is not None):
        raise UsageError("--connect-only asks nothing; leave out --send and --expect")
    question = None if options.connect_only else Question(options.send, options.expect)
    worst = OK
    for number in range(options.count):
        if number:
            time.sleep(options.interval)
        try:
            timing = ping(options.address, question=question, **_settings(options))
        except UsageError:
            raise
        except ClientError as error:
            worst = max(worst, _report(error))
            if options.json:
                fault = {"address": options.address, "ok": False, "error": type(error).__name__, "message": str(error)}
                _print_line(json.dumps(fault))
        else:
            _print_line(_healthy(options, timing))
    return worst


def _healthy(options: argparse.Namespace, timing: Timing) -> str:
    if options.json:
        return json.dumps(
            {
                "address": options.address,
                "ok": True,
                "connect_us": timing.connect_us,
                "round_trip_us": timing.round_trip_us,
            }
        )
    if timing.round_trip_us is None:
        return f"{options.address}: connected in {timing.connect_us:.0f} us"
    return f"{options.address}: round trip {timing.round_trip_us:.0f} us, connected in {timing.connect_us:.0f} us"


def _chat(options: argparse.Namespace) -> int:
    import asyncio

    from prefork_client.chat import chat

    settings = _settings(options)
    patience = settings.pop("reply_timeout")
    asyncio.run(chat(options.address, _standard_input().fileno(), _print, patience=patience, **settings))
    return OK


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "framing": FRAMINGS[options.framing],
        "connect_timeout": options.connect_timeout,
        "reply_timeout": options.timeout,
    }


def _print(frame: bytes) -> None:
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    if sys.stdout.isatty():
        frame = frame.decode("utf-8", "replace").translate(_HARMLESS).encode()
    sys.stdout.buffer.write(frame + b"\n")
    sys.stdout.buffer.flush()


def _print_line(text: str) -> None:
    _print(text.encode())


def _complain(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"prefork-client: {text}\n")


def _report(error: ClientError) -> int:
    _complain(str(error))
    if isinstance(error, UsageError):
        return USAGE
    return NEVER_REACHED if isinstance(error, ConnectFailed) else PEER_FAILED


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0 and up to {LONGEST:g}")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return count
