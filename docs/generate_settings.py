"""Writes `docs/settings.md` from the settings object: the reference cannot say anything else than the program.

Run it after a change of `prefork.settings`; a test fails until the file is up to date:

    python docs/generate_settings.py
"""  # noqa: INP001 - a script, not a module of a package

from __future__ import annotations

from pathlib import Path

from prefork.settings import Option, options

TARGET = Path(__file__).with_name("settings.md")

INTRODUCTION = """\
# Settings

<!-- Made by `python docs/generate_settings.py` from `prefork.settings`; edit that. -->

Each option has one name in four places. The first that gives it a value wins:

1. the command line: `--idle-timeout 60`;
2. the environment: `PREFORK_IDLE_TIMEOUT=60`;
3. the settings file: `idle-timeout = 60` in `prefork.toml`, or under `[tool.prefork]` in `pyproject.toml`;
4. the default.

What is served is `TARGET` on the command line, `PREFORK_TARGET` or `target`. A repeatable option is a list in the file
and separated by commas in the environment. A switch is `--preload` or `--no-preload` on the command line, `on` or `off`
in the environment, `true` or `false` in the file. Times are in seconds; sizes are in bytes, or end in `KiB`, `MiB` or
`GiB`.

`prefork check TARGET` reads all of them as `serve` would, and says every fault at once.
"""

HEADING = """
## {}

| option | in the environment | default | what it says |
|---|---|---|---|
"""


def render() -> str:
    """Return the reference as Markdown: a table for each group of options."""
    known = options()
    parts = [INTRODUCTION]
    for group in dict.fromkeys(option.group for option in known.values()):
        parts.append(HEADING.format(group.capitalize()))
        parts += [_row(name, option) for name, option in known.items() if option.group == group]
    return "".join(parts)


def _row(name: str, option: Option) -> str:
    flag = "--" + name.replace("_", "-")
    shown = f"`{flag}`" if option.flag else f"`{flag} {option.metavar}`"
    return f"| {shown} | `PREFORK_{name.upper()}` | {option.default} | {option.help.replace('|', '&#124;')} |\n"


if __name__ == "__main__":
    TARGET.write_text(render(), "utf-8")
