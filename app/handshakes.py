"""No new connections for a listener that is about to be closed: closing it resets those that nobody has accepted yet.

However soon it is closed after the last one was accepted, another may have come in between. So the kernel is told to
drop what begins a connection, by a filter on the socket (socket(7), SO_ATTACH_FILTER; instructions of the classic BPF
as in Linux' Documentation/networking/filter.rst). Connections that have begun go on.
"""

import ctypes
import logging
import socket
import struct

log = logging.getLogger("swin.server")

ATTACH_FILTER = 26  # SO_ATTACH_FILTER of asm-generic/socket.h, which Python has no name for

INSTRUCTION = struct.Struct("=HBBI")  # code, jumps if true and if false, operand
FLAGS, SYN = 13, 0x02  # in the header of TCP: a byte's place, and its bit (RFC 9293, 3.1)
DROP_SYN = (
    (0x30, 0, 0, FLAGS),  # load this byte
    (0x45, 0, 1, SYN),  # has it this bit?
    (0x06, 0, 0, 0),  # then keep nothing of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else all
)


def begin_none(listener: socket.socket) -> None:
    """Have who asks for a connection wait: it will ask again a second later (RFC 6298, 2), and then be refused.

    Where the kernel has no such filters, all stays as it was.
    """
    program = ctypes.create_string_buffer(b"".join(INSTRUCTION.pack(*each) for each in DROP_SYN))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, ATTACH_FILTER, struct.pack("HP", len(DROP_SYN), ctypes.addressof(program))
        )
    except OSError as error:
        log.debug("connections may be reset at the end", extra={"why": str(error)})
