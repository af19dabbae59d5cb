"""What a user writes, `@reply`, `@conversation` and `lifespan`, and how a target on the command line becomes a service.

It owns the description of a service and the import of a target. It never opens a socket and never runs a handler.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from prefork.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from prefork.connection import BlockingConnection, Connection
    from prefork.settings import Model, TlsMode
    from prefork_wire import Framing

    Reply = Callable[[bytes], bytes | None]
    AsyncReply = Callable[[bytes], Awaitable[bytes | None]]
    Dialogue = Callable[[Connection], Awaitable[None]]
    BlockingDialogue = Callable[[BlockingConnection], None]
    AnyLifespan = Callable[[], contextlib.AbstractContextManager[Any] | contextlib.AbstractAsyncContextManager[Any]]

Kind = Literal["reply", "conversation", "protocol", "streams", "sockets", "listening"]
_L = TypeVar("_L", bound="Callable[[], Any]")


@dataclass
class Service:
    """One service: a handler, how its bytes are framed, and what surrounds it in each worker.

    Calling it calls the handler, so a reply can be tested as the function it is.
    """

    kind: Kind
    handler: Callable[..., Any]
    framing: Framing
    name: str
    is_async: bool
    blocking: bool = False
    concurrency: int = 1
    lifespans: list[AnyLifespan] = field(default_factory=list)

    def __call__(self, argument: Any) -> Any:  # noqa: ANN401 - the handler's own types
        """Call the handler."""
        return self.handler(argument)

    def lifespan(self, manager: _L) -> _L:
        """Attach a context manager that surrounds the life of each worker; usable as a decorator.

        `manager` takes nothing and gives an async or a plain context manager, or is a generator function that yields
        once. It is entered after the fork; the worker is ready only when that has succeeded. Several are entered in the
        order of attaching and left in reverse.
        """
        wrapped: AnyLifespan = manager
        if inspect.isasyncgenfunction(manager):
            wrapped = contextlib.asynccontextmanager(manager)
        elif inspect.isgeneratorfunction(manager):
            wrapped = contextlib.contextmanager(manager)
        self.lifespans.append(wrapped)
        return manager

    def check_tls(self, mode: TlsMode | None) -> None:
        """Make sure that this service can be served over TLS, if that is wanted: `mode` is None where it is not.

        Raises:
            TargetError: it accepts by itself, or nothing would ever use the certificate.
        """
        if mode is not None and self.kind == "listening":
            raise TargetError(f"--tls-cert: {self.name} accepts by itself and must do its TLS itself; drop the option")
        if mode == "starttls" and self.kind in {"protocol", "streams", "sockets"}:
            raise TargetError(
                f"--tls-mode starttls: {self.name} knows nothing of prefork and could not say when; let it do that "
                "with a certificate of its own and drop --tls-cert, or use --tls-mode implicit"
            )

    def check_admission(self, options: Sequence[str]) -> None:
        """Make sure that the options which decide who may come in can be kept.

        Raises:
            TargetError: the server accepts by itself, so that nobody could.
        """
        if options and self.kind == "listening":
            raise TargetError(f"{options[0]}: {self.name} accepts by itself and must see to that; drop the option")

    def model(self, wanted: Model | None) -> Model:
        """Return the worker model this service runs in: `wanted`, or what the handler is.

        Raises:
            TargetError: the handler cannot run in the wanted model.
        """
        if self.is_async:
            if wanted in {"sync", "threads"}:
                raise TargetError(f"--model {wanted}: {self.name} is an `async def`; use --model async, or a `def`")
            return "async"
        if self.kind == "conversation":
            if wanted == "async":
                raise TargetError(f"--model async: {self.name} is a `def`; use --model threads, or an `async def`")
            return wanted or "threads"
        return wanted or ("threads" if self.blocking else "async")


def reply(framing: Framing, *, blocking: bool = False, concurrency: int = 1) -> Callable[[Reply | AsyncReply], Service]:
    """Make a service of a function from one frame to one frame: the fastest way.

    The function takes the frame (bytes) and returns the reply (bytes), or None for no reply. A `def` runs in the event
    loop of an async worker and must not wait there; an `async def` may. The answers of one connection always leave in
    the order of its requests.

    Args:
        framing: How frames are told apart, in both directions.
        blocking: A `def` that waits (for a disk, a database driver, a lock): it runs in threads workers, or, with
            `--model async`, in a pool of `--threads` threads beside the event loop.
        concurrency: How many requests of one connection may be at work at once, for an `async def` or with `blocking`
            in async workers. With 1 each begins when the one before it is answered.

    Raises:
        ValueError: concurrency is below 1, or asked for where nothing waits; or an `async def` is said to block.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")

    def service(handler: Reply | AsyncReply) -> Service:
        name, is_async = _name(handler), inspect.iscoroutinefunction(handler)
        if is_async and blocking:
            raise ValueError(f"{name} is an `async def`: blocking=True is for a `def`")
        if concurrency > 1 and not (is_async or blocking):
            raise ValueError(f"{name} never waits: concurrency is for an `async def`, or for blocking=True")
        return Service("reply", handler, framing, name, is_async, blocking, concurrency)

    return service


def conversation(framing: Framing) -> Callable[[Dialogue | BlockingDialogue], Service]:
    """Make a service of a dialogue: a function that is given one connection and returns when it is over.

    An `async def` is given a `Connection` and runs in async workers; a `def` is given a `BlockingConnection` and runs
    in threads (or sync) workers. What is not closed when it returns is closed in order.
    """
    return lambda handler: Service(
        "conversation", handler, framing, _name(handler), inspect.iscoroutinefunction(handler)
    )


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__name__", type(handler).__name__)


def import_target(target: str) -> object:
    """Import `module:attribute` with the current folder importable, and return what it names: a service, or not yet.

    Raises:
        TargetError: one line with the reason and, where code of the target's failed, its file and line.
    """
    module_name, _, attribute = target.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise TargetError(
                f"cannot load {target!r}: there is no module {error.name!r} here ({folder}) or installed; "
                "check the spelling, or set --chdir"
            ) from error
        raise TargetError(f"cannot load {target!r}: {_where(error)}") from error
    except AttributeError as error:
        if isinstance(getattr(error, "obj", None), type(sys)) and error.name in attribute.split("."):
            raise TargetError(f"cannot load {target!r}: the module has no attribute {error.name!r}") from error
        raise TargetError(f"cannot load {target!r}: {_where(error)}") from error
    except SystemExit as error:
        raise TargetError(f"cannot load {target!r}: it called exit({error.code!r}) at import") from error
    except Exception as error:
        raise TargetError(f"cannot load {target!r}: {_where(error)}") from error
    return found


def _where(error: BaseException) -> str:
    """Return the exception and the innermost place of it that is in a file of the user's."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}{place}" if first_line else f"{type(error).__name__}{place}"
