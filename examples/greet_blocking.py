"""The chapter's dialogue as a plain blocking function, for `--model sync` and `--model threads`.

Run it, then talk to it:

    prefork serve greet_blocking:greet --chdir examples --bind 127.0.0.1:4000 --model sync --workers 4
    telnet 127.0.0.1 4000

A sync worker is the chapter's own loop: it serves one connection and accepts the next when that one has closed. So
four workers talk to four people at once, and the fifth waits in the accept queue. With `--model threads` each worker
talks to as many as `--threads` says. `quit` ends that conversation; nothing a peer can type ends the server.
"""

from prefork import BlockingConnection, Lines, conversation


@conversation(Lines(max_length=200))
def greet(conn: BlockingConnection) -> None:
    """Ask for a name, greet each that comes, and part on `quit`."""
    conn.send(b"Please enter your name now!")
    for line in conn:
        name = line.strip()
        if name == b"quit":
            conn.send(b"Goodbye!")
            return
        conn.send(b"Hello, " + name + b"!" if name else b"Please enter your name now!")
