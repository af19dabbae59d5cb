"""The built-in services, each with the port of its service name.

    inetd    echo, discard, daytime, time, chargen, qotd: the small services of RFC 862 to 868
    greet    the chapter's own dialogue

This file owns the table of them. A service here is written with the same three names that a user has.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prefork import listener
from prefork.errors import SettingsError

if TYPE_CHECKING:
    from prefork.service import Service


@dataclass(frozen=True)
class BuiltIn:
    """One built-in service: where it is, and what a person should know of it.

    `port` is used where the services database lacks the name, as in a slim container.
    """

    name: str
    port: int
    source: str
    summary: str
    module: str = "prefork.services.inetd"

    def load(self) -> Service:
        """Import the service."""
        service: Service = getattr(importlib.import_module(self.module), self.name)
        return service

    def real_port(self) -> tuple[int, str]:
        """Return the port by the services database, or the specification's own, and which of them said so."""
        try:
            return listener.port_of(self.name), "services database"
        except OSError:
            return self.port, self.source


BUILT_IN: Final = {
    service.name: service
    for service in (
        BuiltIn("echo", 7, "RFC 862", "sends back every byte"),
        BuiltIn("discard", 9, "RFC 863", "reads and forgets"),
        BuiltIn("daytime", 13, "RFC 867", "says the date and time in words, and closes"),
        BuiltIn("qotd", 17, "RFC 865", "says a quotation, and closes"),
        BuiltIn("chargen", 19, "RFC 864", "sends characters until you close"),
        BuiltIn("time", 37, "RFC 868", "says the seconds since 1900 in 4 bytes, and closes"),
        BuiltIn("greet", 4000, "the chapter", "asks for names and greets them; quit ends", "prefork.services.greet"),
    )
}


def find(target: str) -> BuiltIn | None:
    """Return the built-in service that a target names; None if the target is `module:attribute`.

    Raises:
        SettingsError: the target is neither.
    """
    if target in BUILT_IN:
        return BUILT_IN[target]
    module, colon, attribute = target.partition(":")
    if colon and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        return None
    if colon:
        raise SettingsError(
            [f"TARGET {target!r}: must be a built-in service or module:attribute, such as shop.wire:orders"]
        )
    close = difflib.get_close_matches(target, BUILT_IN, n=1)
    hint = f"did you mean {close[0]}?" if close else "`prefork services` lists them; your own is module:attribute"
    raise SettingsError([f"TARGET {target!r}: no built-in service has that name; {hint}"])
