"""The witness's process: C2SP tlog-witness over HTTP(S). It has no keystore, no KEK, and nobody to know but logs.

POST /add-checkpoint            see keystore.audit.witnessing
GET  /checkpoint?origin=LOG     the last checkpoint that it signed, for whoever audits
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keystore.audit.witnessing import MAX_BODY_BYTES, Answer, LogWitness, WitnessKey
from keystore.errors import KeystoreError
from keystore.service.observing import log_line
from keystore.service.server import Address, run


def create_witness_app(witness: LogWitness) -> Starlette:
    """Return the application."""

    async def add_checkpoint(request: Request) -> Response:
        body = b""
        async for some in request.stream():
            body += some
            if len(body) > MAX_BODY_BYTES:
                return PlainTextResponse("the request is too large\n", 413)
        try:
            answer = await run_in_threadpool(witness.add_checkpoint, body)
        except KeystoreError as error:
            log_line("failed", error=str(error))
            answer = Answer(500, "the witness can not remember; nothing was signed\n")
        log_line("asked", status=answer.status)
        return Response(answer.text, answer.status, headers={"content-type": answer.content_type})

    async def checkpoint(request: Request) -> Response:
        note = await run_in_threadpool(witness.latest, request.query_params.get("origin", ""))
        return PlainTextResponse("this log is not known here\n", 404) if note is None else PlainTextResponse(note)

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/checkpoint", checkpoint, methods=["GET"]),
        ]
    )


def serve_witness(directory: Path, vkeys: Iterable[str], address: Address) -> None:
    """Be a witness of these logs until the process is told to end. Raises KeystoreError before anything listens."""
    address.check()
    run(create_witness_app(LogWitness(directory, WitnessKey.open_or_create(directory), vkeys)), address)
