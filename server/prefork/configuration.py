"""Where settings come from: the command line, the environment, a file and the defaults, in that order.

Every source gives text (or what TOML has for it) and passes through the same parser, so `--idle-timeout`,
`PREFORK_IDLE_TIMEOUT` and `idle-timeout = 75` mean the same. All faults of all sources are reported at once, with those
that show only when several options, or the machine, are looked at together. This file knows options by the table alone,
but for those contradictions.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pwd
import resource
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefork import cgroup, environment
from prefork.errors import SettingsError
from prefork.log import escape
from prefork.settings import DESCRIPTORS_KEPT, MAX_WORKERS, Option, Settings, Span, flag_of, options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_FAULT: Final = 500
"""Characters of a fault, whatever the value in it."""

MAX_SHOWN: Final = 80
"""Characters of a value in a fault."""


@dataclass(frozen=True)
class _Given:
    """Values of one source, and how that source names an option in a fault."""

    values: Mapping[str, Sequence[str]]
    spelt: Callable[[str], str]
    place: str = ""  # stands before an option in a fault
    strict: bool = False  # whatever is in it is meant for us
    whole: bool = True  # it could be read

    def name(self, option: str) -> str:
        return self.place + self.spelt(option)


def load(target: str, given: Mapping[str, Sequence[str]], config: str | None = None) -> Settings:
    """Merge all sources into settings.

    Args:
        target: what the command line names, or "" to take it from the environment or the file.
        given: texts from the command line by field name.
        config: the settings file; None looks for `prefork.toml`, then `[tool.prefork]` of `pyproject.toml`.

    Raises:
        SettingsError: with every fault of every source.
    """
    faults: list[str] = []
    variables = environment.prefixed()
    named = variables.pop("config", None)
    file = _read_file("--config" if config else "PREFORK_CONFIG", config or named, faults)
    sources = (
        _Given(given, flag_of),
        _Given({name: [value] for name, value in variables.items()}, lambda name: f"PREFORK_{name.upper()}"),
        file,
    )
    values = _merge(sources, faults)
    if target:
        values["target"] = target
    if not values.get("target") and file.whole:  # a file that cannot be read may name one
        faults.append("TARGET is missing: name a built-in service (`prefork services`) or module:attribute")
    settings = Settings(**values)
    faults += _contradictions(settings)
    if faults:
        raise SettingsError([escape(fault, MAX_FAULT) for fault in faults])
    if settings.workers.low:
        return settings
    cpus = min(cgroup.usable_cpus(), MAX_WORKERS)
    return dataclasses.replace(settings, workers=Span(cpus, cpus))


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…")


def _merge(sources: Sequence[_Given], faults: list[str]) -> dict[str, Any]:
    """Return the values of all sources, the strongest given first; what is no value goes into `faults`."""
    known = options()
    values: dict[str, Any] = {}
    for source in reversed(sources):  # the strongest comes last and overwrites
        for name, texts in source.values.items():
            if name == "target":
                values[name] = texts[-1]
            elif name in known:
                _take(source, name, texts, known[name], values, faults)
            elif close := difflib.get_close_matches(name, [*known, "target"], n=1, cutoff=0.8):
                faults.append(f"{source.name(name)}: no such option; did you mean {source.spelt(close[0])}?")
            elif source.strict:
                # other PREFORK_ variables may be anybody's: Kubernetes makes some for a service of that name
                faults.append(f"{source.name(name)}: no such option; `prefork serve --help` lists them")
    return values


def _take(
    source: _Given, name: str, texts: Sequence[str], option: Option, values: dict[str, Any], faults: list[str]
) -> None:
    if option.many and source.name(name).startswith("PREFORK_"):
        texts = [part.strip() for part in texts[-1].split(",")]
    parsed = []
    for text in texts if option.many else texts[-1:]:
        try:
            parsed.append(option.parse(text))
        except ValueError as error:
            faults.append(f"{source.name(name)} {_shown(text)}: {error}")
    if parsed:
        values[name] = tuple(parsed) if option.many else parsed[0]


def _read_file(option: str, config: str | None, faults: list[str]) -> _Given:
    """Return what the settings file says. Where one was named, `config`, it was by `option`."""
    path = Path(config) if config else Path("prefork.toml")
    tables: tuple[str, ...] = ()
    if not config and not path.exists():
        path, tables = Path("pyproject.toml"), ("tool", "prefork")
        if not path.exists():
            return _Given({}, str)
    table: Any = {}
    whole = False
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        whole = True
    except OSError as error:
        faults.append(f"{f'{option} {config!r}' if config else path}: {error.strerror}")
    except (ValueError, RecursionError) as error:  # tomllib lets through what int() says, and arrays in arrays
        if tables:  # somebody else's broken file is not for us to complain of
            whole = True
        else:
            faults.append(f"{path}: not TOML: {_why(error)}")
    for key in tables:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    if not isinstance(table, dict):
        faults.append(f"{path}: tool.prefork: must be a table")
        table = {}
    values = {key.replace("-", "_"): _texts(f"{path}: {key}", value, faults) for key, value in table.items()}
    return _Given(
        {key: texts for key, texts in values.items() if texts},
        lambda name: name.replace("_", "-"),
        place=f"{path}: ",
        strict=True,
        whole=whole,
    )


def _why(error: Exception) -> str:
    """Return why a text is no TOML, with the cure where it is most often the same."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    hint = "; write name = value, texts in quotes" if isinstance(error, tomllib.TOMLDecodeError) else ""
    return f"{error}{hint}"


def _texts(name: str, value: object, faults: list[str]) -> list[str]:
    """Return what a value in a file would be on a command line; none for what could not stand there."""
    items = value if isinstance(value, list) else [value]
    try:
        texts = [_as_text(item) for item in items]
    except ValueError as error:
        faults.append(f"{name}: {error}")
        return []
    return texts or [""]


def _as_text(item: object) -> str:
    if not isinstance(item, str | int | float):
        raise ValueError("must be a text, a number, true or false, or a list of those")  # noqa: TRY004 - as all parsers
    try:
        return str(item).lower() if isinstance(item, bool) else str(item)
    except ValueError:  # sys.set_int_max_str_digits
        raise ValueError("must be a number that can be written down") from None


def _contradictions(settings: Settings) -> list[str]:
    """Return the faults that show only when several options, or the machine, are looked at together."""
    faults = []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and settings.max_connections + DESCRIPTORS_KEPT > limit:
        faults.append(
            f"--max-connections {settings.max_connections}: this machine allows a process {limit} descriptors "
            f"(ulimit -Hn); raise that, or set at most {max(1, limit - DESCRIPTORS_KEPT)}"
        )
    if not settings.tls_cert:
        changed = [f for f in options() if f.startswith("tls_") and getattr(settings, f) != getattr(Settings, f)]
        faults += [f"{flag_of(name)}: means nothing without --tls-cert" for name in changed]
    elif settings.tls_key and len(settings.tls_key) != len(settings.tls_cert):
        faults.append(
            f"--tls-key: {len(settings.tls_key)} for {len(settings.tls_cert)} certificates; give each --tls-cert its "
            "own, or none where each file holds both"
        )
    if settings.proxy_protocol != "off" and not settings.proxy_trust:
        faults.append(
            f"--proxy-protocol {settings.proxy_protocol}: needs --proxy-trust CIDR, the network of the balancers: "
            "anybody else could claim any address"
        )
    if settings.proxy_protocol == "off" and settings.proxy_trust:
        faults.append("--proxy-trust: means nothing without --proxy-protocol")
    others = [name for name in ("user", "group") if getattr(settings, name) not in {None, _current(name)}]
    if os.geteuid() != 0:
        faults += [f"--{name}: only root may become somebody else; start as root or drop the option" for name in others]
    elif settings.user is not None and settings.group is None and not _has_entry(settings.user):
        faults.append(
            f"--user {settings.user}: is no user of this machine, so its group is not known; give --group, too"
        )
    return faults


def _has_entry(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _current(name: str) -> int:
    return os.geteuid() if name == "user" else os.getegid()
