"""What the functions of the endpoints are given beside what a caller sends: who calls, and what the calls share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from keystore.decisions.tokens import Caller
from keystore.service.messages import MAX_SHARD_NAME_CHARACTERS
from keystore.service.office import Office


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _office(request: Request) -> Office:
    office: Office = request.app.state.office
    return office


Calls = Annotated[Caller, Depends(_caller)]
In = Annotated[Office, Depends(_office)]
Id = Annotated[str, Path(max_length=64)]
Shard = Annotated[str, Path(max_length=MAX_SHARD_NAME_CHARACTERS)]
