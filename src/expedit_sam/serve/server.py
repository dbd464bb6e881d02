"""The service until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from expedit_sam.allocator import share_arenas
from expedit_sam.serve.engine import Engine


class Server(uvicorn.Server):
    """Serves until Ctrl+C or SIGTERM; what the network has begun is finished first."""

    def __init__(self, app: FastAPI, engine: Engine) -> None:
        config = uvicorn.Config(
            _with_answers_when_cut_off(app),
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=30,
        )
        super().__init__(config)
        self._engine = engine

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve, then wait for the network: Python aborts if it exits while PyTorch computes."""
        share_arenas()
        try:
            super().run(sockets)
        finally:
            self._engine.stop()
            self._engine.join()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, instead of waiting for it."""
        self._engine.stop()
        await super().shutdown(sockets)


def _with_answers_when_cut_off(app: ASGIApp) -> ASGIApp:
    """The app, which answers 503 where uvicorn cancels a request and would log a traceback."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            refusal = JSONResponse({"error": "the service is stopping"}, 503)
            with suppress(RuntimeError):  # its answer had begun already
                await refusal(scope, receive, send)

    return answering
