"""The house: each floor imports only from floors below it; one file forks, one reads the environment."""

from __future__ import annotations

import ast
from pathlib import Path

import prefork
import prefork_client
import prefork_wire

HOUSE = Path(prefork.__file__).parent

# from the ground up; what stands on one floor may see each other only where the last test allows it
FLOORS = (
    {
        "errors",
        "environment",
        "cgroup",
        "scoreboard",
        "log",
        "signals",
        "prctl",
        "heap",
        "networks",
        "sources",
        "throttle",
    },
    {"settings"},
    {"configuration", "service"},
    {"listener", "connection"},
    {"services", "adapters"},
    {"worker"},
    {"master"},
    {"server"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def files() -> list[Path]:
    return [path for path in HOUSE.rglob("*.py") if path != HOUSE / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return every module a file imports when it runs: what is under TYPE_CHECKING only names types."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def test_every_room_has_a_floor_and_imports_only_from_below() -> None:
    for path in files():
        room = room_of(path)
        assert room in FLOOR_OF, f"{path} stands on no floor"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "prefork" and len(parts) > 1 and parts[1] in FLOOR_OF and parts[1] != room:
                assert FLOOR_OF[parts[1]] < FLOOR_OF[room] or (FLOOR_OF[room] == 0 and FLOOR_OF[parts[1]] == 0), (
                    f"{path} imports {name}"
                )


def calls(path: Path, *wanted: str) -> bool:
    tree = ast.parse(path.read_text("utf-8"))
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) in wanted for node in ast.walk(tree))


def test_one_file_forks() -> None:
    assert [p.name for p in files() if calls(p, "os.fork", "os.forkpty", "os.posix_spawn")] == ["process.py"]


def test_one_file_reads_the_environment() -> None:
    assert [p.name for p in files() if calls(p, "os.environ", "os.getenv")] == ["environment.py"]


def test_master_never_reads_a_clients_byte() -> None:
    for path in (HOUSE / "master").glob("*.py"):
        assert not any(name.startswith(("prefork.connection", "prefork_wire", "asyncio")) for name in imports(path)), (
            path
        )


def test_only_master_and_workers_know_the_listeners_accept() -> None:
    accepting = {p.relative_to(HOUSE).as_posix() for p in files() if ".accept()" in p.read_text("utf-8")}
    assert accepting == {
        "worker/accept.py",
        "worker/sync.py",
        "worker/threads.py",
        "master/control.py",
        "master/commands.py",
        "master/metrics.py",
    }


def test_client_never_imports_the_server() -> None:
    for package in (prefork_client, prefork_wire):
        for path in Path(package.__file__ or "").parent.rglob("*.py"):
            assert not any(name == "prefork" or name.startswith("prefork.") for name in imports(path)), path
