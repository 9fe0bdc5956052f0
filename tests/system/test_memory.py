"""`app/system/memory.py`."""

import gc

from app.system import memory


def test_the_collector_passes_over_what_is_settled() -> None:
    """What exists when everything is open is not looked at again; what is made later is."""
    try:
        before: list[object] = []
        memory.settle()
        after: list[object] = []
        looked_at = {id(each) for each in gc.get_objects()}
    finally:
        gc.unfreeze()

    assert (id(before) in looked_at, id(after) in looked_at) == (False, True)
