"""What the client may import."""

import ast
import sys
from pathlib import Path

import pytest

import prefork_client

FILES = sorted(Path(prefork_client.__file__).parent.glob("**/*.py"))
WITH_ASYNCIO = {"aio.py", "aiopool.py", "chat.py", "cli.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_client_imports_the_wire_and_the_standard_library(path: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names.add((node.module or "").partition(".")[0])
    assert names - {"prefork_client", "prefork_wire"} <= sys.stdlib_module_names
    assert "asyncio" not in names or path.name in WITH_ASYNCIO


def test_every_public_name_is_exported() -> None:
    assert all(hasattr(prefork_client, name) for name in prefork_client.__all__)
