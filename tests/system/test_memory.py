"""`app/system/memory.py`: objects that the garbage collector skips."""

import gc

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
