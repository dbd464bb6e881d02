from __future__ import annotations

import socket

import pytest

from expedit_sam.errors import InputError
from expedit_sam.listening import listen


def test_a_free_port_and_one_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}: choose"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "0.0.0.256", "a\0b", "::zz"])
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(InputError, match="choose others with --host and --port"):
        listen(host, 0)
