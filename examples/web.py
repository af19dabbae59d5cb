"""A handler of the standard library's `socketserver`: its web server, in processes and threads that are looked after.

Run it, then talk to it:

    prefork serve web:Hello --chdir examples --bind 127.0.0.1:8000 --workers 4 --threads 16
    curl http://127.0.0.1:8000/Ada

A subclass of `socketserver.BaseRequestHandler` is recognised by itself, those of `http.server` among them; so
`prefork serve http.server:SimpleHTTPRequestHandler` serves the files of a folder. Connections are kept between requests
(HTTP/1.1); a worker that drains ends those that are quiet.
"""

from http.server import BaseHTTPRequestHandler


class Hello(BaseHTTPRequestHandler):
    """Greet whoever is named in the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        body = f"Hello, {self.path.strip('/') or 'world'}!\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
