from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prefork import cgroup

if TYPE_CHECKING:
    from pathlib import Path

MOST_OF_V1 = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "1000", "memory.max": "max"}, 1000),
        ("0::/a/b", {"a/b/memory.max": "500", "a/memory.max": "1000"}, 500),
        ("0::/", {"memory.max": "700"}, 700),
        ("0::/", {}, None),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("0::/../..", {"memory.max": "800"}, 800),
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "900"}, 900),
        ("4:cpu,memory:/x", {"memory/x/memory.limit_in_bytes": "600", "memory/memory.limit_in_bytes": MOST_OF_V1}, 600),
        ("4:memory:/x", {"memory/x/memory.limit_in_bytes": MOST_OF_V1}, None),
        ("3:cpuset:/x", {"memory/x/memory.limit_in_bytes": "600"}, None),
        ("nonsense", {}, None),
        ("0::/a", {"a/memory.max": "nonsense", "memory.max": "90"}, 90),
    ],
)
def test_least_limit_of_the_group_and_those_above_it_counts(
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert cgroup.memory_limit(tmp_path / "tree", tmp_path / "own") == limit


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup.memory_limit(tmp_path, tmp_path / "none") is None
