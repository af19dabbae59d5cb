"""The whole server as a contents page: settings, log, target, listeners, master, exit code."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefork import __version__, adapters, cgroup, environment, listener, log, services, sources
from prefork.errors import AddressError, PreforkError, SettingsError, TargetError
from prefork.log import LOGGER
from prefork.master import control, upgrade
from prefork.master.loop import Estate, Master
from prefork.settings import CONTROL_OFF, OWN_PORT
from prefork.worker import boot, privileges
from prefork.worker.post import Plan
from prefork_wire.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefork.connection.terms import Terms
    from prefork.service import Service
    from prefork.settings import Settings

_SCRAPERS_QUEUED: Final = 64
"""Length of the accept queue of the metrics socket."""


def run(load: Callable[[], Settings]) -> int:
    """Serve until stopped and return the exit code.

    Args:
        load: reads the settings, now and again for each reload.

    Raises:
        PreforkError: the server could not start; its exit code tells whose turn it is.
    """
    heritage = upgrade.receive()
    try:
        return _serve(load, heritage)
    except PreforkError as error:
        if heritage.maker is not None:  # it tells whoever asked for the upgrade
            heritage.maker.say(upgrade.FAILED, "; ".join(str(error).splitlines()))
        raise


def _serve(load: Callable[[], Settings], heritage: upgrade.Heritage) -> int:
    settings = load()
    if settings.umask is not None:
        os.umask(settings.umask)
    if settings.chdir is not None:
        os.chdir(settings.chdir)
    handler = _open_log(settings)
    privileges.give_log(settings, handler.fd)
    plan = Plan(settings, _load_early(settings), _tls(settings))
    inherited = environment.listen_fds()
    heir = heritage.maker is not None
    with (
        _listening(settings, inherited, heritage) as (listeners, dropped),
        _control(settings, heir=heir) as commands,
        _scraped(settings, heritage) as metrics,
        _pidfile(settings.pidfile) as write_pidfile,
    ):
        if not heir:
            write_pidfile()  # it names the process that everybody knows, which an heir may become later
        where = ", ".join(one.address for one in listeners)
        LOGGER.info(
            "prefork %s pid %d listens on %s for %s, %s worker%s", __version__, os.getpid(), where, settings.target,
            settings.workers, "" if settings.workers.high == 1 else "s",
        )  # fmt: skip
        _warn(settings)
        if commands is not None:
            LOGGER.info("control socket at %s", commands.path)
        if metrics:
            LOGGER.info("metrics at %s", ", ".join(f"http://{one.address}/metrics" for one in metrics))
        estate = Estate(heritage, metrics, lambda: _take_paths(listeners, dropped), _or_say_why_not(write_pidfile))
        with Master(plan, listeners, handler, commands, estate) as master:
            master.on_reload(lambda current: _replan(plan, current, _where_it_started(load)))
            code = master.run()
    LOGGER.info("stopped, exit code %d", code)
    return code


def check(settings: Settings) -> str:
    """Do what `run` would do before its first socket, and say in one line what it would serve.

    Raises:
        PreforkError: what is wrong, every fault of the settings at once.
    """
    if settings.chdir is not None:
        os.chdir(settings.chdir)
    service = _load(settings)
    service.check_tls(settings.tls_mode if _tls(settings) is not None else None)
    service.check_admission(settings.admission())
    where = ", ".join(map(str, _addresses(settings, environment.listen_fds())))
    model = service.model(settings.model)
    manner = f" ({service.adapter})" if isinstance(service, adapters.Adapted) else ""
    return f"ok: {settings.target}{manner} on {where} with {settings.workers} {model} workers"


def _load(settings: Settings) -> Service:
    """Load the target: a built-in service, one of your own, or what an adapter makes of it."""
    built_in = services.find(settings.target)
    if built_in is None:
        return adapters.load(settings.target, settings.adapter)
    if settings.adapter is not None:
        raise TargetError(f"--adapter {settings.adapter}: {settings.target} is a built-in service; drop the option")
    return built_in.load()


def _open_log(settings: Settings) -> log.LogHandler:
    try:
        return log.configure(settings.log_level, settings.log_format, settings.log_file, access=settings.access_log)
    except OSError as error:
        raise SettingsError([f"--log-file {settings.log_file!r}: {error.strerror}"]) from error


def _warn(settings: Settings, before: Settings | None = None) -> None:
    """Say what is allowed and yet seldom meant; behind a reload only what has become so."""
    said = set(_warnings(before)) if before is not None else set()
    for warning in _warnings(settings):
        if warning not in said:
            LOGGER.warning("%s", warning)


def _warnings(settings: Settings) -> Iterator[str]:
    if os.geteuid() == 0 and settings.user is None:
        yield "the workers run as root; name a user for them by --user (root, if that is meant)"
    wanted, limit = settings.workers.high * settings.max_rss, cgroup.memory_limit()
    if limit is not None and wanted > limit:
        yield (
            f"--max-rss: {settings.workers.high} workers may hold {wanted >> 20} MiB together, and the kernel kills at "
            f"{limit >> 20} MiB, the cgroup's limit; allow less, or fewer workers"
        )


def _load_early(settings: Settings) -> Service | None:
    """Load what is loaded before the fork: the model's code and built-in services always, a target by `--preload`."""
    built_in = services.find(settings.target)
    if built_in is None and not settings.preload:
        boot.load_model(settings.model or "async")  # what a target is most often; another costs its own import
        return None
    service = _load(settings)
    boot.load_model(service.model(settings.model))
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise TargetError(
            f"--preload: {settings.target} left threads running at import ({', '.join(others)}), which a fork loses; "
            "start them in its lifespan, or drop --preload"
        )
    return service


def _tls(settings: Settings, before: Terms | None = None) -> Terms | None:
    if not settings.tls_cert:
        return None
    from prefork.connection.terms import terms  # noqa: PLC0415 - a server without TLS does without OpenSSL's memory

    return terms(settings, before)


def _where_it_started(load: Callable[[], Settings]) -> Settings:
    """Read the settings anew where the program was started: `--chdir` has moved it since."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)  # not by its name: it may have lost it
    try:
        upgrade.go_to_the_start()
        return load()
    finally:
        os.fchdir(here)
        os.close(here)


def _replan(first: Plan, current: Plan, settings: Settings) -> Plan:
    """Return the plan of a new generation: what the master had preloaded stays, and TLS if it has not changed."""
    _warn(settings, current.settings)
    if settings.bind != first.settings.bind:
        wanted = ", ".join(map(str, settings.bind)) or "the default"
        raise SettingsError([f"--bind {wanted}: a reload keeps its sockets; `prefork upgrade` opens other addresses"])
    if settings.metrics != first.settings.metrics:
        address = settings.metrics or "off"
        raise SettingsError(
            [f"--metrics {address}: a reload keeps its sockets; `prefork upgrade` opens another address"]
        )
    most, made_for = settings.max_connections, first.settings.max_connections
    if settings.max_connections_per_source and sources.buckets(most) > sources.buckets(made_for):
        table = f"the table of sources was made for {made_for}, and a reload keeps it"
        raise SettingsError([f"--max-connections {most}: {table}; `prefork upgrade` makes a larger one"])
    if first.settings.preload:
        if settings.target != first.settings.target:
            raise SettingsError(
                [f"TARGET {settings.target!r}: a preloaded target cannot be changed by a reload; restart"]
            )
        if settings.adapter != first.settings.adapter:
            raise SettingsError(
                [f"--adapter {settings.adapter}: a preloaded target cannot be changed by a reload; restart"]
            )
        LOGGER.warning("the target was preloaded: a reload cannot see changes of its code")
        return Plan(settings, first.service, _tls(settings, current.tls))
    return Plan(settings, _load_early(settings), _tls(settings, current.tls))


def _addresses(settings: Settings, inherited: Sequence[int]) -> tuple[Address, ...]:
    """Return what to bind: what was asked for, else what was inherited, else loopback and the service's own port."""
    if inherited and not settings.bind:
        return ()
    built_in = services.find(settings.target)
    asked = settings.bind or (Address("tcp", host="127.0.0.1", port=OWN_PORT),)
    if built_in is not None:
        own = built_in.real_port()[0]
        return tuple(replace(address, port=own) if address.port == OWN_PORT else address for address in asked)
    for address in asked:
        if address.port == OWN_PORT:
            option = f"--bind '{address}'" if settings.bind else "--bind is missing"
            raise SettingsError([f"{option}: {settings.target} has no port of its own; give HOST:PORT"])
    return asked


@contextlib.contextmanager
def _listening(
    settings: Settings, inherited: tuple[int, ...], heritage: upgrade.Heritage
) -> Iterator[tuple[list[listener.Listener], list[listener.Listener]]]:
    listeners, dropped = listener.open_all(
        _addresses(settings, inherited or heritage.passed_on),
        inherited,
        heritage.listeners,
        backlog=settings.backlog,
        reuse_port=settings.reuse_port,
    )
    try:
        yield listeners, dropped
    finally:
        for one in listeners:
            one.close()
            one.unlink_path()


@contextlib.contextmanager
def _scraped(settings: Settings, heritage: upgrade.Heritage) -> Iterator[list[listener.Listener]]:
    """Open what `--metrics` asks for, or find it in what an older master left."""
    addresses = []
    if settings.metrics is not None:
        from prefork.master import exposition  # noqa: F401, PLC0415 - loaded before the fork, and by no other server

        addresses.append(settings.metrics)
    listeners, _ = listener.open_all(
        addresses, (), heritage.metrics, backlog=_SCRAPERS_QUEUED, reuse_port=False, option="--metrics"
    )
    try:
        yield listeners
    finally:
        for one in listeners:
            one.close()


def _take_paths(listeners: list[listener.Listener], dropped: list[listener.Listener]) -> None:
    """Own the paths of inherited unix sockets, and remove those of sockets that are not asked for any more."""
    for one in (*listeners, *dropped):
        one.owned = True
    for one in dropped:
        one.unlink_path()


@contextlib.contextmanager
def _control(settings: Settings, *, heir: bool) -> Iterator[control.ControlSocket | None]:
    """Open the control socket; without `--control`, a server that cannot have one goes on without it."""
    if settings.control == CONTROL_OFF:
        yield None
        return
    try:
        opened = control.ControlSocket(settings.control or control.default_path(), heir=heir and bool(settings.control))
    except (AddressError, OSError) as error:
        if settings.control is not None:
            raise
        LOGGER.warning("no control socket: %s; `prefork status` will not find this server", error)
        yield None
        return
    try:
        yield opened
    finally:
        opened.close()
        opened.unlink()


def _or_say_why_not(act: Callable[[], None]) -> Callable[[], None]:
    """Return what does the same and logs a failure: no server that serves ends by it."""

    def do() -> None:
        try:
            act()
        except PreforkError as error:
            LOGGER.error("%s", "; ".join(str(error).splitlines()))

    return do


@contextlib.contextmanager
def _pidfile(path: str | None) -> Iterator[Callable[[], None]]:
    """Give what writes this process's id into the file; remove the file at the end if it still says so."""
    file = Path(path or os.devnull)

    def write() -> None:
        try:
            file.write_text(f"{os.getpid()}\n", "ascii")
        except OSError as error:
            raise SettingsError([f"--pidfile {path!r}: {error.strerror}"]) from error

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):
            if path is not None and file.read_text("ascii").strip() == str(os.getpid()):
                file.unlink()
