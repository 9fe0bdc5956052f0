"""Who waits for an answer: what the connection knows of it, and the request would otherwise need a task to ask for."""


def nothing() -> object:
    """What is done where nobody listens."""
    return None


class ClientState:
    """Of one request. The server says what it does; the request says what is then to be done.

    Behind any other server than ours, nothing is known: callers neither leave, nor have they sent all.
    """

    def __init__(self) -> None:
        self.is_request_complete = self.is_disconnected = False
        self.on_disconnect = nothing

    def disconnect(self) -> None:
        """It has hung up. Said again, it changes nothing: what is cancelled twice does not know by whom."""
        if not self.is_disconnected:
            self.is_disconnected = True
            self.on_disconnect()
