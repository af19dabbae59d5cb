"""A small Redis: the real protocol (RESP2), spoken by the real `redis-cli` and `redis-benchmark`.

Run it, then talk to it:

    prefork serve resp:redis --chdir examples --bind 127.0.0.1:6379 --workers 1
    redis-cli -p 6379 SET greeting hello
    redis-benchmark -p 6379 -t ping_inline,ping_mbulk,set,get -n 100000 -P 16 -q

Why one worker: the keys are a `dict`, and each worker is a process with a memory of its own. With `--workers 4`, a SET
that one worker took is unknown to the other three. PING and ECHO need no memory and may have any number of workers. To
share data between workers, keep it outside of them, as `lifespan.py` does.

It is also an example of a framing of one's own: `Resp` cuts the byte stream into whole commands, bounded, and knows
nothing of their meaning. See `prefork.Framing` and `prefork.Decoder` for what such an object must do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prefork import FrameError, reply
from prefork_wire import FrameInvalid, FrameTooLarge, FrameTruncated

MAX_LINE: Final = 4096
"""Bytes in an inline command, or in the header of an array or of a string."""

MAX_KEYS: Final = 100_000
"""Keys a worker stores before it refuses new ones: memory has an end, too."""


# The framing. ---------------------------------------------------------------------------------------------------------


class RespDecoder:
    """Cuts a byte stream into whole commands: an array of strings, or an inline command in one line.

    It remembers how far it has looked, so that a command in many small pieces is not read from its start each time.
    """

    def __init__(self, max_length: int) -> None:
        """Begin empty, for commands of at most `max_length` bytes with all their headers."""
        self._max_length = max_length
        self._bytes = bytearray()
        self._at = 0  # up to here the first command is known to be well formed
        self._strings: int | None = None  # strings of it still to come; None: its first line is still to come
        self._failure: FrameError | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived."""
        if self._failure is None:
            self._bytes += data

    def take(self) -> bytes | None:
        """Return the next command as it was sent, or None when more bytes are needed."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        try:
            while self._strings != 0:
                if not (self._begin() if self._strings is None else self._one_string()):
                    return None
        except FrameError as error:
            self._failure = error.with_traceback(None)
            self._bytes.clear()
            raise
        command = bytes(self._bytes[: self._at])
        del self._bytes[: self._at]
        self._at = 0
        self._strings = None
        return command

    def end(self) -> None:
        """Say that the peer's bytes have ended."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        if self._bytes:
            raise FrameTruncated("the peer's bytes ended in the middle of a command")

    def rest(self) -> bytes:
        """Return all bytes not yet taken and forget them."""
        rest = bytes(self._bytes)
        self._bytes.clear()
        self._at = 0
        self._strings = None
        return rest

    @property
    def buffered(self) -> int:
        """How many bytes are held and not yet taken."""
        return len(self._bytes)

    def _begin(self) -> bool:
        """Read the first line: how many strings follow, or all there is. False when it is not whole."""
        end = self._line_end()
        if end < 0:
            return False
        self._strings = self._number(0, end) if self._bytes.startswith(b"*") else 0
        self._at = end + 1
        if self._strings * len(b"$0\r\n\r\n") > self._max_length:
            raise FrameTooLarge(f"array of {self._strings} strings, the limit is {self._max_length} bytes")
        return True

    def _one_string(self) -> bool:
        """Pass over one string and its header. False when it is not whole."""
        end = self._line_end()
        if end < 0:
            return False
        if self._bytes[self._at] != ord("$"):
            raise FrameInvalid("a command is an array of strings")
        following = end + 1 + self._number(self._at, end) + 2
        if following > self._max_length:  # said from the header, before the string is buffered
            raise FrameTooLarge(f"command of {following} bytes at least, the limit is {self._max_length}")
        if len(self._bytes) < following:
            return False
        if self._bytes[following - 2 : following] != b"\r\n":
            raise FrameInvalid("a string does not end where its header says")
        self._at = following
        self._strings = (self._strings or 0) - 1
        return True

    def _line_end(self) -> int:
        """Return where the LF is that ends the line at `_at`; -1 when it has not come."""
        end = self._bytes.find(b"\n", self._at, self._at + MAX_LINE)
        if end < 0 and len(self._bytes) - self._at >= MAX_LINE:
            raise FrameTooLarge(f"no line end within {MAX_LINE} bytes")
        return end

    def _number(self, start: int, end: int) -> int:
        digits = bytes(self._bytes[start + 1 : end]).removesuffix(b"\r")
        if not digits.isdigit() or len(digits) > len(str(self._max_length)):
            raise FrameInvalid("a length must be a number from 0 on, and not a huge one")
        return int(digits)


@dataclass(frozen=True)
class Resp:
    """RESP2 as a server meets it: whole commands come in, replies written by the functions below go out.

    Attributes:
        max_length: The longest command, in bytes with all its headers.
    """

    max_length: int = 64 << 10

    def decoder(self) -> RespDecoder:
        """Return a decoder with fresh state, for one connection."""
        return RespDecoder(self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` as it is: a reply says itself where it ends."""
        return payload


def words_of(command: bytes) -> list[bytes]:
    """Return the words of one whole command, which the decoder has found to be well formed."""
    if not command.startswith(b"*"):
        return command.split()  # an inline command; quoting is not understood
    words = []
    at = command.index(b"\n") + 1
    while at < len(command):
        start = command.index(b"\n", at) + 1
        end = start + int(command[at + 1 : start])
        words.append(command[start:end])
        at = end + 2
    return words


# The replies. ---------------------------------------------------------------------------------------------------------

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
NIL: Final = b"$-1\r\n"


def error(text: str) -> bytes:
    """Return an error reply."""
    return b"-%s\r\n" % text.encode()


def integer(number: int) -> bytes:
    """Return an integer reply."""
    return b":%d\r\n" % number


def string(value: bytes) -> bytes:
    """Return a string reply, of any bytes."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(*values: bytes) -> bytes:
    """Return an array of strings."""
    return b"*%d\r\n" % len(values) + b"".join(map(string, values))


# The commands. --------------------------------------------------------------------------------------------------------

STORE: Final[dict[bytes, bytes]] = {}
"""This worker's keys, and this worker's alone."""

FULL: Final = error(f"OOM this server stores at most {MAX_KEYS} keys")
NO_INTEGER: Final = error("ERR value is not an integer or out of range")


def ping(*message: bytes) -> bytes:
    """PING [message]."""
    return string(message[0]) if message else PONG


def get(key: bytes) -> bytes:
    """GET key."""
    value = STORE.get(key)
    return NIL if value is None else string(value)


def put(key: bytes, value: bytes) -> bytes:
    """SET key value, without Redis's options."""
    if len(STORE) >= MAX_KEYS and key not in STORE:
        return FULL
    STORE[key] = value
    return OK


def delete(*keys: bytes) -> bytes:
    """DEL key [key ...]: how many there were."""
    return integer(sum(STORE.pop(key, None) is not None for key in keys))


def increment(key: bytes) -> bytes:
    """INCR key: the number after it, a signed 64-bit integer as in Redis."""
    if len(STORE) >= MAX_KEYS and key not in STORE:
        return FULL
    held = STORE.get(key, b"0")
    if not held.removeprefix(b"-").isdigit() or len(held) > len(str(-(1 << 63))):
        return NO_INTEGER
    number = int(held) + 1
    if not -(1 << 63) <= number < 1 << 63:
        return NO_INTEGER
    STORE[key] = b"%d" % number
    return integer(number)


def config(action: bytes, name: bytes = b"", *_: bytes) -> bytes:
    """CONFIG GET name, which `redis-benchmark` asks first: nothing is saved, so every answer is empty."""
    return array(name, b"") if action.upper() == b"GET" else error("ERR only CONFIG GET is known here")


def command_table(*_: bytes) -> bytes:
    """COMMAND DOCS, which an interactive `redis-cli` asks first: there is no table."""
    return array()


COMMANDS: Final[dict[bytes, tuple[Callable[..., bytes], int, int]]] = {
    b"PING": (ping, 0, 1),
    b"ECHO": (string, 1, 1),
    b"GET": (get, 1, 1),
    b"SET": (put, 2, 2),
    b"DEL": (delete, 1, 1024),
    b"INCR": (increment, 1, 1),
    b"CONFIG": (config, 1, 1024),
    b"COMMAND": (command_table, 0, 1024),
}
"""What each command calls, and how few and how many words may follow its name."""


@reply(Resp())
def redis(command: bytes) -> bytes | None:
    """Carry out one command; nothing is said to an empty one, as in Redis."""
    words = words_of(command)
    if not words:
        return None
    name = words.pop(0).upper()
    known = COMMANDS.get(name)
    if known is None:
        shown = repr(name[:40]).removeprefix("b")  # quoted, and with no control byte that would end the line early
        return error(f"ERR unknown command {shown}")
    call, fewest, most = known
    if not fewest <= len(words) <= most:
        return error(f"ERR wrong number of arguments for '{name.decode().lower()}' command")
    return call(*words)
