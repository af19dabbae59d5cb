"""A plain function of a socket and its peer's address, as the first chapter of any book on sockets has it.

Run it, then talk to it:

    prefork serve upper:handle --chdir examples --bind 127.0.0.1:4000 --model threads
    nc 127.0.0.1 4000

A `def` with two parameters is taken for such a function. The socket is a real one and may block; that a silent peer or
a worker that leaves ends its wait needs no line here.
"""

import socket


def handle(sock: socket.socket, address: tuple[str, int]) -> None:
    """Greet the peer, then send back in capitals whatever comes."""
    sock.sendall(f"you are {address[0]}\n".encode())
    while data := sock.recv(4096):
        sock.sendall(data.upper())
