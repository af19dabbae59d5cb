"""The settings: whatever a person, a variable or a file says is taken, or refused in one line that can be acted on."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuzz.given import Given
from prefork import configuration, settings
from prefork.errors import SettingsError
from prefork_wire import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES: Final = ("option", "variable", "prefork.toml", "pyproject.toml")
LONGEST: Final = 8192
NAMES: Final = tuple(settings.options())
WORDS: Final = (
    *(name.replace("_", "-").encode() for name in NAMES), b" = ", b"[tool.prefork]\n", b"[", b"]", b'"', b'"""', b"\n",
    b"127.0.0.1:", b"[::1]:", b"unix:/", b"fd://", b"/32", b"/64", b"KiB", b"true", b"\\u0000", b"\\u001b", b"0x",
    b"inf", b"1979-05-27", b"tool", b"target", b"async", b"1.3", b"..",
)  # fmt: skip


def check(data: bytes) -> None:
    """Give the rest of `data` to one of the places settings come from."""
    given = Given(data)
    source = SOURCES[given.below(len(SOURCES))]
    name = NAMES[given.below(len(NAMES))]
    matter = given.rest()
    with contextlib.chdir(folder()):
        check_source(source, name, matter)


def check_source(source: str, name: str, matter: bytes) -> None:
    """Load settings of which `source` says `matter`: of the option `name`, or as a whole file."""
    told: dict[str, list[str]] = {}
    if source.endswith(".toml"):
        with _file(source, matter):
            _load(told, None, "")
        return
    text = os.fsdecode(matter)
    if "\0" in text:  # neither a command line nor a variable can hold one
        return
    if source == "option":
        _load({name: [text]}, f"--{name.replace('_', '-')}", text)
        return
    variable = f"PREFORK_{name.upper()}"
    os.environ[variable] = text
    try:
        _load(told, variable, text)
    finally:
        del os.environ[variable]


def _load(told: dict[str, list[str]], name: str | None, text: str) -> None:
    try:
        loaded = configuration.load("echo", told)
    except SettingsError as error:
        for fault in error.faults:
            assert fault.isprintable(), f"not one plain line: {fault!r}"
            assert len(fault) < 1000, f"longer than anybody reads: {len(fault)} characters"
        if name is not None:
            _names_what_is_wrong(error.faults, name, text)
        return
    _is_usable(loaded)


def _names_what_is_wrong(faults: tuple[str, ...], name: str, text: str) -> None:
    """Fail unless a fault names the option and, cut where it is long, the value."""
    parts = [part.strip() for part in text.split(",")] if name.startswith("PREFORK_") else []
    shown = {_unquoted(repr(one[:40])[1:-1]) for one in (text, *parts)}
    assert all(fault.startswith((name, "--")) for fault in faults), faults
    named = [fault for fault in faults if fault.startswith((f"{name} '", f'{name} "'))]
    assert all(any(one in _unquoted(fault) for one in shown) for fault in named), (faults, shown)


def _unquoted(text: str) -> str:
    return text.replace("\\", "")  # which of the two quotes are escaped depends on the whole of a text


def _is_usable(loaded: settings.Settings) -> None:
    """Fail unless the operating system could take what was taken."""
    for address in loaded.bind:
        assert address.port == settings.OWN_PORT or parse_address(str(address)) == address
        assert str(address).isprintable()
    for number in (loaded.user, loaded.group):
        assert number is None or 0 <= number < (1 << 32) - 1  # setuid(2): the last one means "leave it"
    for path in (loaded.control, loaded.pidfile, loaded.log_file, loaded.chdir, loaded.tls_cert, loaded.tls_key):
        assert path is None or "\0" not in path
    assert loaded.target
    assert "\0" not in loaded.target
    assert 1 <= loaded.workers.low <= loaded.workers.high <= settings.MAX_WORKERS
    for one in (*loaded.allow, *loaded.deny, *loaded.proxy_trust):
        assert one.head < 1 << max(1, one.prefix)


@contextlib.contextmanager
def _file(name: str, content: bytes) -> Iterator[None]:
    path = Path(name)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()


@functools.cache
def folder() -> str:
    """Return an empty folder to load settings in, in memory where there is such a place."""
    kept.append(tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    return kept[0].name


kept: Final[list[tempfile.TemporaryDirectory[str]]] = []
