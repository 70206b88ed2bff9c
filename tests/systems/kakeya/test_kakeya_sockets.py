"""The listener is a TCP socket that says so, or each answer waits for a delayed acknowledgement."""

import socket

from holdfast.systems.kakeya.service.server import _bind


def test_the_listener_sends_an_answers_second_segment_at_once() -> None:
    (listener,) = _bind(None, 0)
    with listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY on such sockets only"
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
