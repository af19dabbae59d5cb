"""The documents, held to what they say: links, names and commands exist, programs parse, sessions run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import prefork_wire
from prefork.settings import options
from support import clients
from support.server import clean_environment
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SHOWN_PORT = "4000"
"""The port that the documents show; here it becomes a free one."""

LINK = re.compile(r"\[([^\]\[]*)\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(document.read_text("utf-8")) if name == language]


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text("utf-8"))


# Links and names. -----------------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[str, Path, str]]:
    for text, target in LINK.findall(prose(document)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield text, (document.parent / path).resolve() if path else document, anchor


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for text, path, anchor in links(document):
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append((text, str(path), anchor))
    assert not broken


def defined_in(path: Path) -> set[str]:
    """Return every name a file defines: functions, classes, assignments, and those of its classes with a dot."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(prefix + name)
                case ast.ClassDef(name=name):
                    found.add(prefix + name)
                    collect(node.body, f"{prefix}{name}.")
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(prefix + name)
                case _:
                    pass

    collect(ast.parse(path.read_text("utf-8")).body, "")
    return found


@each_document
def test_every_linked_name_is_defined_in_its_file(document: Path) -> None:
    missing = []
    for text, path, _ in links(document):
        name = text.strip("`")
        if path.suffix == ".py" and not name.endswith(".py") and name not in defined_in(path):
            missing.append((name, str(path)))
    assert not missing


@each_document
def test_every_file_and_module_in_code_spans_exists(document: Path) -> None:
    missing = []
    folders = {path.name for path in ROOT.iterdir()} - {"reports"}  # what is made there is not kept
    for span in re.findall(r"`([^`\n]+)`", prose(document)):
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", span) and span.partition("/")[0] in folders
        is_name = re.fullmatch(r"prefork(_wire|_client|_loadtest)?(\.\w+)+", span) and not span.endswith(".toml")
        if (is_path and not (ROOT / span).exists()) or (is_name and not exists(span)):
            missing.append(span)
    assert not missing


def exists(dotted: str) -> bool:
    """Say whether a dotted name is a module, or an attribute of one."""
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, attribute = dotted.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True


SECURITY = ROOT / "docs" / "security.md"


def test_security_names_every_option_of_limits_and_edge_with_the_default_it_has() -> None:
    shown = dict(re.findall(r"^\| `--([a-z-]+)` \| ([^|]*?) \|", SECURITY.read_text("utf-8"), re.MULTILINE))
    real = {name.replace("_", "-"): option for name, option in options().items()}
    assert shown == {name: real[name].default for name in shown}
    assert {name for name, option in real.items() if option.group in {"limits", "edge"}} <= shown.keys()


def test_security_names_bounds_that_are_those_of_the_code() -> None:
    text = SECURITY.read_text("utf-8")
    constants = re.findall(r"\[`(\w+)`\]\(\.\./server/(prefork/\S+)\.py\), (\d+)", text)
    assert len(constants) > 5
    for name, path, value in constants:
        assert getattr(importlib.import_module(path.replace("/", ".")), name) == int(value), name
    framings = re.findall(r"`(\w+)\(max_length=(\d+)\)`", text)
    assert len(framings) > 4
    for name, value in framings:
        default = inspect.signature(getattr(prefork_wire, name)).parameters["max_length"].default
        assert default == int(value), name


@each_document
def test_every_option_in_code_spans_is_one(document: Path) -> None:
    known = {"--" + name.replace("_", "-") for name in options()} | {
        "--now",
        "--web-login",  # of Locust
        "--json",
        "--config",
        "--help",
        "--version",
    }
    known |= {"--no-" + name.replace("_", "-") for name, option in options().items() if option.flag}
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose(document)) if span.startswith(("--", "prefork "))]
    named = {option for span in spans for option in re.findall(r"--[a-z][a-z-]+", span)}
    assert named <= known


def makefile() -> str:
    return (ROOT / "Makefile").read_text("utf-8")


def test_make_test_runs_every_folder_of_tests() -> None:
    named = set(re.findall(r"tests/(\w+)", "\n".join(re.findall(r"^[A-Z_]+ := .*tests/.*", makefile(), re.MULTILINE))))
    assert named == {path.parent.name for path in ROOT.glob("tests/*/test_*.py")}


@each_document
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", makefile(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", document.read_text("utf-8"), re.MULTILINE)) <= targets


def test_settings_reference_is_up_to_date() -> None:
    rendered = subprocess.run(
        [sys.executable, "-c", "import generate_settings, sys; sys.stdout.write(generate_settings.render())"],
        cwd=ROOT / "docs", capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == rendered, "run python docs/generate_settings.py"


COMMAND = re.compile(r"^(?:\$ )?(?:prefork|make|docker|locust|python|pip|\.?venv|source)[\w./-]* .*$", re.MULTILINE)


@pytest.mark.parametrize(
    "document", [*DOCS, ROOT / "loadtest" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_explanation_behind_a_command_is_a_comment_to_the_shell(document: Path) -> None:
    lines = [line for body in blocks(document, "text") for line in COMMAND.findall(body)]
    assert not [line for line in lines if re.search(r"\S {2,}[^ #]", line)]


# Programs. ------------------------------------------------------------------------------------------------------------


@each_document
def test_every_python_block_parses(document: Path) -> None:
    for body in blocks(document, "python"):
        ast.parse(body)


def test_every_exit_code_and_signal_of_the_guide_is_in_the_help() -> None:
    command_help = subprocess.run(
        [sys.executable, "-m", "prefork", "serve", "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    guide = (ROOT / "docs" / "guide.md").read_text("utf-8")
    table = guide.partition("| signal | meaning |")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| ([A-Z0-9, ]+) \|", table, re.MULTILINE)
    assert shown
    helped = command_help.partition("Signals to the master:")[2].partition("Exit codes:")[0]
    in_help = re.findall(r"^  ([A-Z][A-Z0-9]+(?:, [A-Z0-9]+)*) ", helped, re.MULTILINE)
    assert sorted(", ".join(shown).split(", ")) == sorted(", ".join(in_help).split(", "))


class Program:
    """A server program of the chapter, run by itself."""

    def __init__(self, source: str, port: int, folder: Path) -> None:
        path = folder / "program.py"
        assert "port = 4000" in source
        path.write_text(source.replace("port = 4000", f"port = {port}"), "utf-8")
        self.process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def port(self) -> int | None:
        """Return the port it listens on, or None if it ended instead."""
        assert self.process.stdout is not None
        match = re.fullmatch(rb"listening on (\d+)\n", self.process.stdout.readline())
        return int(match[1]) if match else None

    def end(self) -> bytes:
        """Kill it and return what it complained of."""
        self.process.kill()
        return self.process.communicate(timeout=10)[1]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str, int], Program]]:
    chapter = (ROOT / "docs" / "chapter.md").read_text("utf-8")
    sources = {
        body.splitlines()[0].removeprefix("# "): body
        for language, body in BLOCK.findall(chapter)
        if language == "python"
    }
    started: list[Program] = []

    def start(name: str, port: int) -> Program:
        started.append(Program(sources[name], port, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.end()


def is_lingering(port: int) -> bool:
    """Say whether a connection of `port`'s is in TIME_WAIT (proc(5), net/tcp, state 06)."""
    rows = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "06" for row in rows)


@pytest.mark.parametrize(("name", "comes_back"), [("first_server.py", False), ("revised_server.py", True)])
def test_only_the_revised_server_gets_its_port_back(
    program: Callable[[str, int], Program],
    name: str,
    comes_back: bool,  # noqa: FBT001 - the expected outcome
) -> None:
    server = program(name, 0)
    port = server.port()
    assert port
    # no more than the server reads: with input left unread it would close by a reset, after which nothing lingers
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"Ada\n" if name == "first_server.py" else b"Ada\nquit\n")
        heard = b"".join(iter(lambda: sock.recv(4096), b""))
    assert heard == b"Please enter your name now!\nHello, Ada!\n"
    until(lambda: is_lingering(port), what="the connection lingers in TIME_WAIT")
    server.end()
    again = program(name, port)
    assert again.port() == (port if comes_back else None)
    assert (b"Address already in use" in again.end()) is not comes_back


# Sessions. ------------------------------------------------------------------------------------------------------------


class Session:
    """Runs the commands of a `console` block, with a free port in place of the one that is shown."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self._folder = folder
        self._files = files
        self._port = SHOWN_PORT
        self._servers: list[subprocess.Popen[bytes]] = []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = clean_environment(PATH=path, XDG_RUNTIME_DIR=str(folder), PYTHONDONTWRITEBYTECODE="1")

    def run(self, block: str) -> None:
        """Run a block and compare what is printed with what is shown."""
        try:
            for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, shown = step.partition("\n")
                if command.endswith("&"):
                    self._serve(command.removesuffix("&").strip())
                else:
                    self._compare(command, shown)
        finally:
            for server in self._servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    def _write_files(self) -> None:
        for name, body in self._files.items():
            (self._folder / name).write_text(self._real(body), "utf-8")

    def _real(self, text: str) -> str:
        return re.sub(rf"\b{SHOWN_PORT}\b", self._port, text)

    def _serve(self, command: str) -> None:
        self._write_files()
        log_path = self._folder / "session.log"
        bind = f"127.0.0.1:{SHOWN_PORT}"
        assert bind in command
        with log_path.open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command.replace(bind, '127.0.0.1:0')}"],
                cwd=self._folder, env=self._env, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._servers.append(server)
        workers = int(re.findall(r"--workers (\d+)", command)[0])

        def ready() -> str | None:
            log = log_path.read_text("utf-8")
            assert server.poll() is None, log
            bound = re.search(r"127\.0\.0\.1:(\d+)", log)
            return bound[1] if bound and log.count("is ready") == workers else None

        self._port = until(ready, 20, what=f"{command} is ready") or ""

    def _compare(self, command: str, shown: str) -> None:
        self._write_files()
        for name in ("nc", "telnet", "redis-cli"):
            if re.search(rf"(^|\| ){name} ", command):
                clients.find(name)
        done = subprocess.run(
            ["bash", "-c", self._real(command)],
            cwd=self._folder, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
        )  # fmt: skip
        printed = done.stdout.decode().replace("\r\n", "\n")
        assert re.fullmatch(pattern_of(self._real(shown)), printed), (
            f"$ {command}\n{printed}--- but the document shows\n{shown}"
        )


def pattern_of(shown: str) -> str:
    """Return a pattern for what is shown: `...` alone is any number of lines, and in a line any text."""
    lines = shown.splitlines(keepends=True)
    return "".join(
        r"(?:[^\n]*\n)*" if line == "...\n" else r"[^\n]*".join(map(re.escape, line.split("..."))) for line in lines
    )


SESSIONS = [
    pytest.param(document, number, id=f"{document.name} {number + 1}")
    for document in DOCS
    for number in range(len(blocks(document, "console")))
]


@pytest.mark.parametrize(("document", "number"), SESSIONS)
def test_session_prints_what_is_shown(document: Path, number: int, tmp_path: Path) -> None:
    sources = blocks(document, "python") + blocks(document, "toml")
    files = {name[1]: body for body in sources if (name := re.match(r"# (\w+\.(?:py|toml))\n", body))}
    block = blocks(document, "console")[number]
    if "check" not in block:  # the settings file belongs to the session that shows it
        files.pop("prefork.toml", None)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    Session(tmp_path, files).run(block)
