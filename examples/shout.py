"""The smallest service: one line in, the same line in capitals out.

Run it, then talk to it:

    prefork serve shout:shout --chdir examples --bind 127.0.0.1:4000
    nc 127.0.0.1 4000
"""

from prefork import Lines, reply


@reply(Lines(max_length=8192))
def shout(line: bytes) -> bytes:
    """Answer a line with its letters in capitals."""
    return line.upper()
