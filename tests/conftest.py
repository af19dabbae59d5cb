"""Fixtures for all tests that start the real program: real signals, real sockets."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., Server]
    Module = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests with containers in one process, where others run beside them: they share images and projects."""
    for item in items:
        if item.get_closest_marker("docker") is not None:
            item.add_marker(pytest.mark.xdist_group("docker"))


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that makes a server of the real program: `with start("echo", "--workers", "2") as server`."""

    def make(target: str = "echo", *options: str, **more: object) -> Server:
        folder = tmp_path / f"s{len(list(tmp_path.glob('s[0-9]')))}"
        folder.mkdir()
        return Server(target, *options, tmp_path=folder, **{"cwd": tmp_path, **more})  # type: ignore[arg-type]

    return make


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """Return a function that writes a module into the folder in which servers run, and returns `name:service`."""

    def write(code: str, name: str = "app") -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code), "utf-8")
        return f"{name}:service"

    return write
