r"""One database connection per worker, opened and closed by a lifespan.

A small notebook whose pages live in SQLite, so that every worker sees what any other wrote. A connection to SQLite
must not be carried over a fork, and opening one per request is waste. A lifespan runs once in each worker, after the
fork, and the worker accepts nothing before it has been entered.

Run it, then talk to it:

    prefork serve lifespan:notebook --chdir examples --bind 127.0.0.1:4000 --workers 2
    printf 'put milk two litres\nget milk\n' | nc -N 127.0.0.1 4000

The requests are one line each: `put PAGE TEXT`, `get PAGE`, `pages`. The database is `notebook.db` in the folder that
the server runs in. Each query is short, and holds its worker's event loop for as long as it lasts; for long ones use
`--model sync`.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

from prefork import Lines, reply


class Pages:
    """The notebook's table. `open` and `close` belong to the lifespan; in between it is this worker's own."""

    def __init__(self) -> None:
        """Begin closed."""
        self._db: sqlite3.Connection | None = None

    def open(self, path: str) -> None:
        """Open the database, and make the table if this worker is the first."""
        # Other workers open it at this very moment, and may be writing later: each waits up to 5 seconds for its turn.
        # Each statement is a transaction of its own.
        self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        self._db.execute("CREATE TABLE IF NOT EXISTS page (name TEXT PRIMARY KEY, text TEXT NOT NULL)")

    def close(self) -> None:
        """Close the database."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def put(self, name: str, text: str) -> None:
        """Write a page, over what was there."""
        self._open_db().execute("INSERT OR REPLACE INTO page VALUES (?, ?)", (name, text))

    def get(self, name: str) -> str | None:
        """Return a page, or None."""
        row = self._open_db().execute("SELECT text FROM page WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def names(self) -> list[str]:
        """Return the names of the first hundred pages, in their order."""
        return [str(row[0]) for row in self._open_db().execute("SELECT name FROM page ORDER BY name LIMIT 100")]

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the notebook is closed: its lifespan has not been entered")
        return self._db


pages = Pages()


@reply(Lines(max_length=4096))
def notebook(line: bytes) -> bytes:
    """Answer one request."""
    try:
        words = line.decode("utf-8").split(maxsplit=2)
    except UnicodeDecodeError:
        return b"error: not UTF-8"
    match words:
        case ["put", name, text]:
            pages.put(name, text)
            return b"ok"
        case ["get", name]:
            found = pages.get(name)
            return b"error: no such page" if found is None else found.encode()
        case ["pages"]:
            return " ".join(pages.names()).encode()
        case _:
            return b"error: put PAGE TEXT, get PAGE, or pages"


@notebook.lifespan
def database() -> Iterator[None]:
    """Hold this worker's connection open for as long as the worker lives."""
    pages.open("notebook.db")
    with contextlib.closing(pages):
        yield
