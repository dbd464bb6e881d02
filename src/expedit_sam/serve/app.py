"""The service's addresses: what comes in, what goes out, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import time
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from expedit_sam.batch.prompts import Prompt, prompts_of
from expedit_sam.errors import InputError
from expedit_sam.everything.rle import decode_mask
from expedit_sam.serve.engine import Busy, Engine, Question, Stopping, two_at_a_time
from expedit_sam.serve.page import page

MOST_PROMPTS = 256  # of one request; of points too, which may all belong to one prompt
_CLIENT_CHECK_SECONDS = 1  # between two checks whether a client has left
# Seconds that a request may take; everything mode takes minutes.
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)

_PROMPTS_HELP = (
    'As JSON: {"boxes": [[x0, y0, x1, y1]], "points": [[x, y]], "labels": [1]}. Each box is a '
    "prompt; each point is one too, or all are one where labels (1 includes, 0 excludes) are "
    "given. In pixels. Left out: masks of everything."
)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": reason, "content": {"application/json": {"schema": {"type": "object"}}}}
    for code, reason in {
        400: "The request is no form",
        413: "The upload is too large",
        422: "No image, or no prompts",
        429: "Too many requests wait",
        503: "The service is stopping",
    }.items()
}


def build_app(engine: Engine, megabytes: float) -> FastAPI:
    """The service's web application.

    Arguments:
        engine: what answers.
        megabytes: of the largest upload that is taken.
    """
    app = FastAPI(
        title="Expedit-SAM",
        description="Masks of what boxes and points mean in an image, or of everything in it.",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours is page()
        redoc_url=None,
    )
    app.add_middleware(_BodyLimit, limit=megabytes * 1e6)
    for error in (HTTPException, RequestValidationError, InputError, Busy, Stopping, Exception):
        app.add_exception_handler(error, _refuse)
    registry = CollectorRegistry()
    seconds = Histogram(
        "expedit_sam_seconds", "Seconds of a request", ["of"], registry=registry, buckets=_BUCKETS
    )
    masks_made = Counter("expedit_sam_masks", "Masks returned", registry=registry)
    for name, read, text in (
        ("waiting", "waiting", "Requests that wait for the network"),
        ("cache_hits", "hits", "Requests whose image embedding was kept"),
        ("cache_misses", "misses", "Requests whose image had to be encoded"),
    ):
        gauge = Gauge(f"expedit_sam_{name}", text, registry=registry)
        gauge.set_function(partial(getattr, engine, read))

    @app.post("/masks", responses=_REFUSALS)
    async def masks(
        request: Request,
        image: Annotated[UploadFile, File(description="JPEG, PNG, ...")],
        prompts: Annotated[str | None, Form(description=_PROMPTS_HELP)] = None,
        format: Annotated[
            Literal["json", "png"],
            Form(description="json: COCO RLE; png: a 16-bit map, mask n having the value n"),
        ] = "json",
    ) -> Response:
        """The masks of an image: the best of each prompt, or of everything."""
        started = time.perf_counter()
        engine.check_room()
        question = await run_in_threadpool(lambda: engine.ask(image.file.read(), _parsed(prompts)))
        found = await _answered(request, question)
        respond = _label_map if format == "png" else partial(_as_json, engine)
        response = await run_in_threadpool(respond, question.work.size, found)
        masks_made.inc(len(found))
        kind = "prompts" if question.task is engine.prompted else "everything"
        seconds.labels(kind).observe(time.perf_counter() - started)
        return response

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service is up, and with which network."""
        task = engine.prompted
        return {
            "status": "ok",
            "model": task.model,
            "speed": task.speed,
            "weights": task.weights,
            "waiting": engine.waiting,
        }

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain")

    @app.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    return app


async def _answered(request: Request, question: Question) -> list[dict[str, Any]]:
    """Wait for the masks without a thread; a client that leaves cancels its question."""
    answered = asyncio.wrap_future(question.answered)
    try:
        while not (await asyncio.wait([answered], timeout=_CLIENT_CHECK_SECONDS))[0]:
            if await request.is_disconnected():
                raise HTTPException(499, "the client has left")
        return answered.result()
    finally:
        answered.cancel()  # has no effect once the question is being answered


def _parsed(text: str | None) -> list[Prompt] | None:
    """The prompts of a form; None for everything."""
    if text is None or not text.strip():
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("prompts are no JSON") from None
    if not isinstance(document, dict):
        raise InputError('prompts must be an object: write {"points": [[x, y]]} for instance')
    prompts = prompts_of(document)
    if not prompts:
        raise InputError("prompts hold neither boxes nor points: leave them out for everything")
    if len(prompts) > MOST_PROMPTS:
        raise InputError(
            f"{len(prompts)} prompts are too many: send at most {MOST_PROMPTS} at a time"
        )
    points = sum(len(prompt["points"]) for prompt in prompts)
    if points > MOST_PROMPTS:
        raise InputError(f"{points} points are too many: send at most {MOST_PROMPTS} at a time")
    return prompts


def _as_json(engine: Engine, size: tuple[int, int], masks: list[dict[str, Any]]) -> Response:
    task = engine.prompted
    return JSONResponse(
        {
            "height": size[0],
            "width": size[1],
            "model": task.model,
            "speed": task.speed,
            "weights": task.weights,
            "masks": [
                {
                    name: value.item() if isinstance(value, np.generic) else value
                    for name, value in mask.items()
                }
                for mask in masks
            ],
        }
    )


@two_at_a_time
def _label_map(size: tuple[int, int], masks: list[dict[str, Any]]) -> Response:
    """A 16-bit PNG in which mask n has the value n; smaller masks lie on larger ones."""
    labels = np.zeros(size, np.uint16)
    for number in sorted(range(len(masks)), key=lambda n: -masks[n]["area"]):
        labels[decode_mask(masks[number]["segmentation"])] = number + 1
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")


async def _refuse(request: Request, error: Exception) -> Response:
    """The answer to any error: a status code, and one line that says what is wrong."""
    code, reason = 500, "the service failed: its log says why"
    if isinstance(error, InputError):
        code, reason = 422, str(error)
    elif isinstance(error, HTTPException):
        code, reason = error.status_code, str(error.detail)
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        code, reason = 422, f"{field}: {first['msg']}"
        if field == "image":
            reason = "image must be a file: write -F image=@photo.jpg for curl"
    elif isinstance(error, Busy):
        code, reason = 429, "too many requests are waiting: try again in a moment"
    elif isinstance(error, Stopping):
        code, reason = 503, "the service is stopping"
    headers = getattr(error, "headers", None)
    return JSONResponse({"error": " ".join(reason.split())}, code, headers)


class _BodyLimit:
    """Refuses bodies of more bytes than a limit, unread where Content-Length admits the size."""

    def __init__(self, app: ASGIApp, limit: float) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = int(dict(scope.get("headers", [])).get(b"content-length", 0))
        read = 0

        async def counted() -> Message:
            nonlocal read
            self._check(announced)
            message = await receive()
            read += len(message.get("body", b""))
            self._check(read)
            return message

        await self.app(scope, counted, send)

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise HTTPException(413, f"the upload has more than {self.limit / 1e6:g} MB")
