"""SSH: the `asyncssh` library accepts by itself, and is handed the listening sockets.

Run it, then talk to it with a key of your own:

    pip install asyncssh
    ssh-keygen -q -t ed25519 -N '' -f visitor && cp visitor.pub examples/authorized_keys
    prefork serve ssh:serve --chdir examples --bind 127.0.0.1:8022 --workers 4
    ssh -i visitor -p 8022 127.0.0.1 hello

Who may come in is in `authorized_keys`, in the folder that the server runs in; without that file nobody is. The host's
key is made there at the first start: it must be the same in each worker, or clients would take them for impostors. A
session that is open when the worker is to leave is served to its end, at most for `--drain-timeout`.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

import asyncssh

from prefork import Listening

HOST_KEY: Final = Path("ssh_host_key")
AUTHORIZED: Final = Path("authorized_keys")


def host_key() -> str:
    """Return the path of the host's key; the first worker makes it, the others find it whole."""
    mine = HOST_KEY.with_suffix(f".{os.getpid()}")
    if not HOST_KEY.exists():
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(mine)
        with contextlib.suppress(FileExistsError):
            os.link(mine, HOST_KEY)  # at once and whole, or not at all
        mine.unlink()
    return str(HOST_KEY)


async def serve(listener: Listening) -> None:
    """Answer each command with the words of it, until the worker is to leave."""

    async def session(process: asyncssh.SSHServerProcess[str]) -> None:
        with listener.connection():
            listener.count_request()
            process.stdout.write(f"you said: {process.command or 'nothing'}\n")
            if process.command == "cat":
                process.stdout.write(await process.stdin.read())
            process.exit(0)

    options = {"server_host_keys": [host_key()], "process_factory": session}
    if AUTHORIZED.exists():
        options["authorized_client_keys"] = str(AUTHORIZED)
    servers = [await asyncssh.listen(sock=sock, **options) for sock in listener.sockets]
    listener.ready()
    await listener.draining()
    for server in servers:
        server.close()
    await listener.idle()
