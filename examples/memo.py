r"""A streams callback, as one writes it for `asyncio.start_server`: no word of prefork in it.

Run it, then talk to it:

    prefork serve memo:memo --chdir examples --bind 127.0.0.1:4000
    printf 'milk\nbread\n' | nc -N 127.0.0.1 4000

It numbers the lines that it is told, and says how many there were. An `async def` with two parameters is taken for such
a callback; for any other callable say `--adapter streams`.
"""

import asyncio


async def memo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Number each line."""
    count = 0
    while line := await reader.readline():
        count += 1
        writer.write(b"%d %s\n" % (count, line.strip()))
        await writer.drain()
    writer.write(b"%d in all\n" % count)
