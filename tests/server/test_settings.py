from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from prefork import cgroup, configuration, settings
from prefork.errors import SettingsError
from prefork_wire.address import parse_address

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in settings.options():
        monkeypatch.delenv(f"PREFORK_{name.upper()}", raising=False)


def test_defaults_are_what_the_reference_shows() -> None:
    loaded = configuration.load("echo", {})
    assert (loaded.backlog, loaded.max_connections, loaded.drain_timeout, loaded.idle_timeout) == (
        2048,
        1024,
        30.0,
        75.0,
    )
    assert loaded.workers == (cgroup.usable_cpus(),) * 2
    assert loaded.workers.low >= 1
    for name, option in settings.options().items():
        value = getattr(settings.Settings(), name)
        if isinstance(value, int | float) and not option.flag and value:
            assert option.parse(option.default) == value, name


def test_command_line_beats_environment_beats_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "prefork.toml").write_text(
        'backlog = 1\nthreads = 1\nidle-timeout = 1.5\npreload = true\ntarget = "echo"\n'
    )
    monkeypatch.setenv("PREFORK_BACKLOG", "2")
    monkeypatch.setenv("PREFORK_THREADS", "2")
    loaded = configuration.load("", {"backlog": ["3"]})
    assert (loaded.backlog, loaded.threads, loaded.idle_timeout, loaded.preload) == (3, 2, 1.5, True)
    assert loaded.target == "echo"


def test_pyproject_table_is_read_where_there_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.prefork]\nbind = ["127.0.0.1:1", "[::1]:2"]\n')
    assert configuration.load("echo", {}).bind == (parse_address("127.0.0.1:1"), parse_address("[::1]:2"))
    (tmp_path / "prefork.toml").write_text('bind = "127.0.0.1:3"\n')
    assert configuration.load("echo", {}).bind == (parse_address("127.0.0.1:3"),)


def test_several_addresses_in_one_variable_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFORK_BIND", "127.0.0.1:1, unix:/tmp/x")
    assert configuration.load("echo", {}).bind == (parse_address("127.0.0.1:1"), parse_address("unix:/tmp/x"))


def test_variables_of_other_programs_of_ours_are_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFORK_LOADTEST_USERS", "7")
    assert configuration.load("echo", {}).target == "echo"


def test_faults_are_all_told_and_the_last_value_of_the_strongest_source_wins() -> None:
    with pytest.raises(SettingsError) as caught:
        configuration.load("", {"workers": ["x"], "bind": ["nowhere", "127.0.0.1:1"], "max_write_buffer": ["0"]})
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert configuration.load("echo", {"max_write_buffer": [text]}).max_write_buffer == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1kb", "1 KiB", "\N{ARABIC-INDIC DIGIT ONE}", "1e3", "NaN"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--max-write-buffer"):
        configuration.load("echo", {"max_write_buffer": [text]})


@pytest.mark.parametrize("text", ["", "inf", "nan", "-0", "1e1", "1_0", "86401"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--idle-timeout"):
        configuration.load("echo", {"idle_timeout": [text]})


def test_more_connections_than_descriptors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    with pytest.raises(SettingsError, match="at most 448"):
        configuration.load("echo", {"max_connections": ["500"]})
    assert configuration.load("echo", {"max_connections": ["448"]}).max_connections == 448


def test_misspelt_variable_is_a_fault_and_a_strangers_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFORK_SERVICE_HOST", "10.0.0.1")  # as Kubernetes sets for a service named prefork
    monkeypatch.setenv("PREFORK_PORT", "tcp://10.0.0.1:7")
    configuration.load("echo", {})
    monkeypatch.setenv("PREFORK_WORKRS", "3")
    with pytest.raises(SettingsError, match="PREFORK_WORKRS: no such option; did you mean PREFORK_WORKERS"):
        configuration.load("echo", {})


def faults(target: str = "", config: str | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        configuration.load(target, {}, config)
    return caught.value.faults


@pytest.mark.parametrize(
    ("key", "meant"), [("worker", "workers"), ("idle_timeuot", "idle-timeout"), ("targt", "target")]
)
def test_misspelt_key_of_a_file_is_told_with_what_was_meant(tmp_path: Path, key: str, meant: str) -> None:
    (tmp_path / "prefork.toml").write_text(f'{key} = "3"\n')
    assert faults("echo") == (f"prefork.toml: {key.replace('_', '-')}: no such option; did you mean {meant}?",)


def test_file_that_cannot_be_read_is_the_only_fault_and_named_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert faults(config="absent.toml") == ("--config 'absent.toml': No such file or directory",)
    (tmp_path / "prefork.toml").mkdir()  # nobody can read that, not even root
    assert faults() == ("prefork.toml: Is a directory",)
    monkeypatch.setenv("PREFORK_CONFIG", "absent.toml")
    assert faults() == ("PREFORK_CONFIG 'absent.toml': No such file or directory",)


@pytest.mark.parametrize("line", ["target = echo", "bind = 127.0.0.1:4000", "workers: 3"])
def test_file_that_is_no_toml_is_told_how_to_write_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "prefork.toml").write_text(f"{line}\n")
    (fault,) = faults()
    assert fault.startswith("prefork.toml: not TOML: ")
    assert fault.endswith("; write name = value, texts in quotes")


def test_broken_file_of_somebody_else_says_nothing_of_a_target(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.prefork\n")
    (fault,) = faults()
    assert fault.startswith("TARGET is missing")
