"""A small line server that behaves as its one argument says. It prints its port and serves until it is killed.

python peer.py echo            every line comes back
python peer.py wrong:1000      one bit of every thousandth answer is flipped
python peer.py crossed:500     every five-hundredth answer is an earlier request of somebody
python peer.py truncated:200   every two-hundredth answer ends in its middle, and so does the connection
python peer.py dropped:200     every two-hundredth request is answered with the end of the connection
python peer.py swapped:200     every two-hundredth answer and the next one of another connection change places
python peer.py stale:200       every two-hundredth answer is the one before on its connection
python peer.py duplicated:200  every two-hundredth answer comes twice
python peer.py delayed:200:2   every two-hundredth answer comes two seconds late
python peer.py varied          every answer takes 50 to 900 microseconds
python peer.py closing         every connection ends after its first answer
python peer.py mute            requests are read and never answered
python peer.py refusing        every connection ends at once
python peer.py stall:600:2     after 600 answers everything stands still for two seconds, once
"""

from __future__ import annotations

import asyncio
import random
import sys
import time


class Peer:
    """Answers are counted over all connections, so that every Nth of the whole run is the odd one."""

    def __init__(self, behaviour: str) -> None:
        self.kind, *numbers = behaviour.split(":")
        self.numbers = [int(number) for number in numbers]
        self.answers = 0
        self.earlier = b""
        self.held: tuple[asyncio.StreamWriter, bytes] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every line of one connection."""
        before = b""
        try:
            while self.kind != "refusing" and (line := await reader.readline()):
                if self.kind == "mute":
                    continue
                answer = self.answer(line)
                if self.is_odd("stale") and before:
                    answer = before
                if self.is_odd("delayed"):
                    await asyncio.sleep(self.numbers[1])
                before = line
                if self.swaps(writer, answer):
                    continue
                writer.write(answer)
                await writer.drain()
                if self.is_odd("truncated", "dropped") or self.kind == "closing":
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()

    def swaps(self, writer: asyncio.StreamWriter, answer: bytes) -> bool:
        """Whether the answer was held back, or given to another connection in exchange for its own."""
        if self.held is not None and self.held[0] is not writer:
            (other, held), self.held = self.held, None
            other.write(answer)
            writer.write(held)
            return True
        if self.is_odd("swapped") and self.held is None:
            self.held = (writer, answer)
            return True
        return False

    def is_odd(self, *kinds: str) -> bool:
        """Whether this answer is the odd one of this behaviour."""
        return self.kind in kinds and self.answers % self.numbers[0] == 0

    def answer(self, line: bytes) -> bytes:
        """What comes back for a line."""
        self.answers += 1
        before, self.earlier = self.earlier, line
        if self.is_odd("wrong"):
            return line[:40] + bytes([line[40] ^ 1]) + line[41:]
        if self.is_odd("crossed"):
            return before
        if self.is_odd("truncated"):
            return line[: len(line) // 2]
        if self.is_odd("dropped"):
            return b""
        if self.is_odd("duplicated"):
            return line + line
        if self.kind == "varied":
            end = time.perf_counter() + random.uniform(50e-6, 900e-6)  # noqa: S311 - to vary
            while time.perf_counter() < end:
                pass
        if self.kind == "stall" and self.answers == self.numbers[0]:
            time.sleep(self.numbers[1])  # of all connections: the event loop itself stands still
        return line


async def main() -> None:
    """Serve on a free port of loopback."""
    server = await asyncio.start_server(Peer(sys.argv[1]).serve, "127.0.0.1", 0, limit=1 << 20)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
