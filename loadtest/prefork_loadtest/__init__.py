"""A Locust kit for framed TCP: users that prove every answer, scenarios, gates and a fail-closed verdict.

Importing this package imports nothing else: Locust patches the standard library for gevent, and must do so before any
module that opens a socket is loaded. `prefork_loadtest.engine` and `prefork_loadtest.users` import Locust first.
"""

__version__ = "0.1.0"
