"""What the Python peers have no preforking for, by hand: so many processes that accept on one socket.

Nobody looks after them: a signal to the process group ends them all.
"""

from __future__ import annotations

import os
import socket
import sys


def listen() -> socket.socket:
    """Listen on `PORT` of loopback, become `PROCESSES` processes, and return the listener they share.

    Both are the last words of the command line. To be called before there is any event loop or thread.
    """
    port, processes = (int(word) for word in sys.argv[-2:])
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    return listener
