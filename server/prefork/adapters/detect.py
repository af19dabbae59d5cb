"""From a target to its adapter: by what the target is, or by what `--adapter` says it is.

    asyncio.Protocol or BufferedProtocol class, or a partial of one      protocol
    async def with two parameters                                        streams
    async def with one parameter                                         listening
    socketserver.BaseRequestHandler class, or a partial of one           socketserver
    def with two parameters                                              function

A parameter is one that must be given. Everything else must be named: a factory of protocols is a function like any
other. Whatever is refused is refused here, before a connection comes. It never calls what it looks at.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socketserver
from typing import TYPE_CHECKING, Any, Final

from prefork.adapters.handlers import handler_of
from prefork.adapters.opaque import Adapted, Opaque
from prefork.errors import TargetError

if TYPE_CHECKING:
    from prefork.service import Kind
    from prefork.settings import Adapter

_KINDS: Final[dict[Adapter, Kind]] = {
    "protocol": "protocol",
    "streams": "streams",
    "socketserver": "sockets",
    "function": "sockets",
    "listening": "listening",
}

_GIVEN: Final[dict[Adapter, tuple[int, str]]] = {
    "protocol": (0, "a class or a factory that is called with nothing and gives a protocol"),
    "streams": (2, "a callback that is given a reader and a writer"),
    "socketserver": (3, "a handler class that is given a request, an address and a server"),
    "function": (2, "a function that is given a socket and an address"),
    "listening": (1, "an `async def` that is given the listening sockets"),
}
"""How many arguments each is called with, and what it is in words."""


def adapt(found: object, target: str, adapter: Adapter | None) -> Adapted:
    """Return the service that an adapter makes of what a target names.

    Raises:
        TargetError: no adapter fits, or the one that was named does not.
    """
    chosen = adapter or _detect(found)
    if chosen is None:
        raise TargetError(f"cannot load {target!r}: it is {_described(found)}, not a service; {_hint(found)}")
    fault = _fault(found, chosen)
    if fault:
        raise TargetError(f"--adapter {chosen}: {target} {fault}")
    handler: Any = handler_of(found) if chosen == "socketserver" else found
    name = getattr(_unwrapped(found), "__name__", type(found).__name__)
    return Adapted(_KINDS[chosen], handler, Opaque(), name, _KINDS[chosen] != "sockets", adapter=chosen)


def _detect(found: object) -> Adapter | None:
    inner = _unwrapped(found)
    if inspect.isclass(inner):
        if issubclass(inner, asyncio.Protocol | asyncio.BufferedProtocol):
            return "protocol"
        if issubclass(inner, socketserver.BaseRequestHandler):
            return "socketserver"
        return None
    if not callable(found) or _is_generator(found):
        return None
    wanted = _parameters(found)
    if _is_async(found):
        return {1: "listening", 2: "streams"}.get(wanted)  # type: ignore[return-value] # the values are adapters
    return "function" if wanted == 2 else None  # noqa: PLR2004 - a socket and an address


def _fault(found: object, adapter: Adapter) -> str:  # noqa: PLR0911 - a list of what can be wrong
    """Return why an adapter does not fit, with the cure; "" if it does."""
    given, what = _GIVEN[adapter]
    own = _detect(found)
    better = f"use --adapter {own}, or drop the option" if own not in {None, adapter} else f"it needs {what}"
    if not callable(found):
        return f"is {_described(found)}; {better}"
    if _is_generator(found):
        return f"is {_described(found)}; {_NEVER_RUN}"
    inner = _unwrapped(found)
    if inspect.isclass(inner):
        if adapter != own:
            return f"is {_described(inner)}; {better}"
        if adapter == "socketserver" and issubclass(inner, socketserver.DatagramRequestHandler):
            return f"handles datagrams; {better} on a stream"
    elif adapter == "socketserver":
        return f"is no class; {better}"
    elif adapter == "listening" and not _is_async(found):
        return f"is no `async def`; {better}"
    elif adapter in {"function", "protocol"} and _is_async(found):
        return f"is an `async def`; {better}"
    missing = _missing(found, given)
    if missing and adapter == "protocol" and inspect.isclass(inner):
        return f"cannot be made without arguments ({missing}); give them by functools.partial({inner.__name__}, ...)"
    return f"cannot be called so ({missing}); {better}" if missing else ""


def _described(found: object) -> str:
    if inspect.isclass(found):
        return f"the class {found.__name__}"
    if _is_generator(found):
        return "a generator function"
    return "a function" if inspect.isroutine(found) else f"of type {type(found).__name__}"


def _unwrapped(found: object) -> object:
    while isinstance(found, functools.partial):
        found = found.func
    return found


def _is_async(found: object) -> bool:
    return any(map(inspect.iscoroutinefunction, _called(found)))


def _is_generator(found: object) -> bool:
    return any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in _called(found))


def _called(found: object) -> tuple[object, object]:
    """Return what may run when `found` is called."""
    inner = _unwrapped(found)
    if inspect.isclass(inner):  # its `__call__` is that of its instances
        return inner, None
    return inner, getattr(inner, "__call__", None)  # noqa: B004 - its kind is asked for


def _parameters(found: Any) -> int:  # noqa: ANN401 - any callable
    """Return how many arguments must be given in their places; -1 if that cannot be known or more must be given."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return -1
    needed = [one for one in parameters if one.default is one.empty and one.kind not in _VARIABLE]
    return len(needed) if all(one.kind is not one.KEYWORD_ONLY for one in needed) else -1


_NEVER_RUN: Final = "nobody would ask it for what it yields, and so it would never run; take out its `yield`"

_VARIABLE: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _missing(found: Any, given: int) -> str:  # noqa: ANN401 - any callable
    """Return why `found` cannot be called with so many arguments; "" if it can, or if nobody knows."""
    try:
        inspect.signature(found).bind(*range(given))
    except TypeError as error:
        return str(error)
    except ValueError:
        return ""
    return ""


def _hint(found: object) -> str:
    """Return what to do with a target that is no service and that no adapter knows by itself."""
    if isinstance(found, type) and issubclass(found, socketserver.BaseServer):
        return "a socketserver server binds by itself; name its handler class instead"
    if _is_generator(found):
        return _NEVER_RUN
    if inspect.isfunction(found) and not _is_async(found) and _parameters(found) == 0:
        return "if it makes an asyncio.Protocol, say --adapter protocol"
    return "decorate a function with @reply(...) or @conversation(...), or say with --adapter what it is: " + ", ".join(
        _KINDS
    )
