"""Files that contain no readable image."""

from tests.chaos.client_pool import ClientPool


def _truncated(clients: ClientPool) -> bytes:
    data = clients.photo().data
    return data[: len(data) // 2]


def _text(clients: ClientPool) -> bytes:
    return b"I am a text file, not an image.\n" * clients.random.randrange(1, 100)


def _empty(_: ClientPool) -> bytes:
    return b""


def _bomb(_: ClientPool) -> bytes:
    """Return the header of a PNG of 20000×20000 pixels."""
    return bytes.fromhex("89504e470d0a1a0a0000000d4948445200004e2000004e20080200000058f9ef4a")


def mutated(clients: ClientPool) -> bytes:
    """Return an image with some bytes changed: it may be another image."""
    data = bytearray(clients.random.choice([clients.digit, clients.photo])().data)
    for _ in range(clients.random.randrange(1, 20)):
        data[clients.random.randrange(len(data))] = clients.random.randrange(256)
    return bytes(data)


# Functions that return such files.
BAD_FILES = [_truncated, _text, _empty, _bomb]
