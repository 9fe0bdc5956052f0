"""`app/system/memory.py`: objects that the garbage collector skips, and the memory that is available."""

import gc
from pathlib import Path

import pytest

from app.system import memory


def test_the_garbage_collector_skips_frozen_objects() -> None:
    """Objects that exist at `freeze_gc` are skipped; objects that are made later are not."""
    try:
        before: list[object] = []
        memory.freeze_gc()
        after: list[object] = []
        visited = {id(each) for each in gc.get_objects()}
    finally:
        gc.unfreeze()

    assert (id(before) in visited, id(after) in visited) == (False, True)


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 4_096_000), ("3000000", 2_000_000), ("900000", 0), (None, 4_096_000)]
)
def test_available_memory_is_that_of_the_machine_and_of_the_cgroup(
    limit: str | None, expected: int, tmp_path: Path
) -> None:
    """The smaller one counts: a container can have less than the machine."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("1000000\n")
        (tmp_path / "memory.stat").write_text("anon 1000000\n")

    assert memory.available_memory(tmp_path / "meminfo", tmp_path) == expected


@pytest.mark.parametrize(("limit", "expected"), [("3000000", 2_000_000), ("9223372036854771712", 4_096_000)])
def test_a_cgroup_of_version_1_limits_memory_too(limit: str, expected: int, tmp_path: Path) -> None:
    """Its files have other names, and a huge number means that there is no limit."""
    (tmp_path / "meminfo").write_text("MemAvailable:   4000 kB\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{limit}\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("1000000\n")
    (tmp_path / "memory/memory.stat").write_text("cache 0\n")

    assert memory.available_memory(tmp_path / "meminfo", tmp_path) == expected


def test_pages_of_files_are_available(tmp_path: Path) -> None:
    """A container that has read large files uses all its memory, and can start processes all the same."""
    (tmp_path / "meminfo").write_text("MemAvailable:   4000 kB\n")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 2000000\nactive_file 500000\n")

    assert memory.available_memory(tmp_path / "meminfo", tmp_path) == 2_000_000
