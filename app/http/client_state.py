"""The state of the client of one request, as the connection reports it. Knows no connection.

A request that had to poll its connection for a disconnect would need a task of its own.
"""


def do_nothing() -> object:
    """Do nothing. The default for `ClientState.on_disconnect`."""
    return None


class ClientState:
    """The state of the client of one request.

    The server sets the state. The request sets `on_disconnect`, which is called when the client
    disconnects. Behind another server than `app.server`, the state never changes.
    """

    def __init__(self) -> None:
        self.is_request_complete = self.is_disconnected = False
        self.on_disconnect = do_nothing

    def disconnect(self) -> None:
        """Mark the client as disconnected and call `on_disconnect`, the first time only.

        A second call of `task.cancel` would look like a cancellation by another component.
        """
        if not self.is_disconnected:
            self.is_disconnected = True
            self.on_disconnect()
