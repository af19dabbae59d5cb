from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from prefork import __version__
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.client import DockerClient
    from docker.models.containers import Container

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700), pytest.mark.usefixtures("images")]
BOTH = pytest.mark.parametrize("image", ["prefork", "prefork-loadtest"])


@BOTH
def test_image_says_what_it_is(engine: DockerClient, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == image
    assert labels["version"] == __version__
    assert labels["licenses"] == "MIT"
    assert labels["description"]


@BOTH
def test_image_has_a_user_without_rights_and_stops_by_term(engine: DockerClient, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == [image]


@BOTH
def test_image_ships_no_tools_and_nothing_its_user_could_change(engine: DockerClient, image: str) -> None:
    look = """
command -v cc gcc g++ make
python -c 'import pip' 2>/dev/null && echo pip
python -c 'import hatchling' 2>/dev/null && echo hatchling
find /opt/prefork /srv -writable ! -type l ! -name reports
find /opt/prefork -name '__init__*.pyc' -path '*/prefork_client/*' -printf '%f\n'
"""
    found = engine.containers.run(image, ["-c", look], entrypoint="sh", remove=True, network_mode="none")
    assert found.decode().split() == ["__init__.cpython-313.pyc"]  # the bytecode was compiled with the build


def test_services_have_the_ports_of_the_services_database(engine: DockerClient) -> None:
    listed = engine.containers.run("prefork", ["services", "--json"], remove=True, network_mode="none")
    found = {row["name"]: (row["port"], row["source"]) for row in json.loads(listed)}
    assert found["echo"] == (7, "services database")
    assert found["time"] == (37, "services database")
    checked = engine.containers.run("prefork", ["check", "greet", "--workers", "1"], remove=True, network_mode="none")
    assert checked.decode() == "ok: greet on :4000 with 1 async workers\n"  # every interface, and its own port


@pytest.fixture
def plain(engine: DockerClient) -> Iterator[Container]:
    container = engine.containers.run("prefork", detach=True)
    yield container
    container.remove(force=True)


def test_server_image_runs_without_any_option_and_its_health_is_a_real_request(plain: Container) -> None:
    def healthy() -> bool:
        plain.reload()
        return bool(plain.attrs["State"].get("Health", {}).get("Status") == "healthy")

    until(healthy, 30, what=f"healthy; {plain.logs()!r}")
    assert "round trip" in plain.attrs["State"]["Health"]["Log"][-1]["Output"]
    plain.stop()
    assert plain.wait(timeout=10)["StatusCode"] == 0
