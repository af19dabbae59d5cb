"""The wire is sans-IO: what it may not import, it cannot use."""

import ast
import sys
from pathlib import Path

import pytest

import prefork_wire

FILES = sorted(Path(prefork_wire.__file__).parent.glob("**/*.py"))
BANNED = {"socket", "asyncio", "ssl", "select", "selectors", "socketserver", "threading", "time", "os", "io"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_wire_imports_no_io_and_no_sibling(path: Path) -> None:
    foreign = imports(path) - {"prefork_wire"}
    assert not foreign & BANNED
    assert foreign <= sys.stdlib_module_names


def test_every_public_name_is_exported() -> None:
    assert prefork_wire.__all__ == sorted(prefork_wire.__all__)
    assert all(hasattr(prefork_wire, name) for name in prefork_wire.__all__)
