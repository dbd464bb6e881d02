"""Listening, on this computer alone unless told otherwise."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from expedit_sam.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: choose others with --host and --port"
        ) from error


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until Ctrl+C or SIGTERM; requests that are being answered are finished first."""
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=30
    )
    uvicorn.Server(config).run(sockets=[listener])
