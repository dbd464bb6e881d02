"""Addresses that the demo and the service listen on."""

from __future__ import annotations

import socket

from expedit_sam.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, TypeError) as error:  # TypeError: characters that no address has
        raise unavailable(host, port) from error


def unavailable(host: str, port: int) -> InputError:
    """What to say of an address that cannot be had."""
    return InputError(f"cannot listen on {host}, port {port}: choose others with --host and --port")
