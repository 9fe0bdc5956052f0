"""Libraries of extras, which an installation can lack. Imports none of them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from app.errors import StartError


@contextmanager
def required(program: str, *libraries: str, extra: str) -> Iterator[None]:
    """Import libraries of an extra inside the block.

    Args:
        program: the command that needs them, for the message.
        libraries: the names of the libraries, as they are imported.
        extra: the extra that installs them.

    Raises:
        StartError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in libraries:
            raise
        raise StartError(f"{program} needs {_listed(libraries)}: pip install 'swin-serve[{extra}]'") from error


def is_installed(library: str) -> bool:
    """Return whether a library can be imported. Does not import it."""
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # the parent of a package is missing
        return False


def _listed(names: Collection[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
