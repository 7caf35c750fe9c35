"""Callers who mean harm: paths, headers, bodies, patience, floods; and what the service says of them to its operator."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import time
from datetime import timedelta

import pytest

from keystore.decisions.api_token import Role
from keystore.intake.sealing import seal_record
from keystore.intake.shards import shard_bytes
from keystore.served import ServedKeystore
from keystore.service import server
from keystore.service.endpoints import ENDPOINTS
from keystore.service.guard import REFUSALS_PER_HOUR

PATHS = (
    "/v1/requests/../../etc/passwd",
    "/v1/requests/..%2f..%2fkeystore.db",
    "/v1/requests/%00",
    "/v1/requests/' OR '1'='1",
    "/v1/requests/" + "a" * 5000,
    "/v1/requests//",
    "//v1/requests/x",
    "/v1/REQUESTS/x",
    "/v1/requests/x?request_id=y",
    "/v1/requests/\u202e",
    "/docs",
    "/redoc",
    "/v1/inbox/..%2f..%2f/x",
)
SHARDS = ("..%2f..%2fkek", ".hidden", "a%2fb", "a%00b", "x.keys", "%2e%2e", "a" * 300, "%0d%0aX: y")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_nowhere_is_nothing(path: str, served) -> None:
    answer = served.call("GET", path, served.token("requester", "alice"))
    assert answer.status_code in (404, 422), answer.text
    assert "keystore.db" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_is_put_nowhere_but_into_its_runs_folder(name: str, served, beside: ServedKeystore, make) -> None:
    before = sorted(path for path in served.path.rglob("*") if path.name != "keystore.db-wal")
    token = served.token("ingest", "job", "photos")
    data = shard_bytes([seal_record(make.record(run_id="run-9"), beside.ingest_public_key)])
    answer = served.call("PUT", f"/v1/inbox/run-9/{name}", token, content=data)
    assert answer.status_code in (404, 405, 422), answer.text
    assert sorted(path for path in served.path.rglob("*") if path.name != "keystore.db-wal") == before


def test_a_shard_of_another_data_set_or_run_or_of_nothing_is_refused(served, beside: ServedKeystore, make) -> None:
    token = served.token("ingest", "job", "photos")

    def put(data: bytes) -> int:
        return served.call("PUT", "/v1/inbox/run-7/part-0", token, content=data).status_code

    def sealed(**changes: str) -> bytes:
        return seal_record(make.record("z.png", **{"run_id": "run-7", **changes}), beside.ingest_public_key)

    own = shard_bytes([sealed()])
    for data in (
        b"",
        b"x" * 100,
        own[:-1],
        own + b"\0",
        shard_bytes([]),
        shard_bytes([b"KASEAL02junk"]),
        shard_bytes([sealed(dataset="elsewhere")]),
        shard_bytes([sealed(run_id="run-8")]),
        shard_bytes([sealed(), sealed(dataset="elsewhere")]),
    ):
        assert put(data) == 422
    assert beside.run_dataset("run-7") == (False, None), "and no run is announced by it"
    assert put(own) == 204
    assert put(own) == 204, "again is harmless"
    assert put(shard_bytes([sealed()])) == 409, "another one is not written over it"
    assert beside.ingest("run-7").ingested == 1


def test_an_inbox_that_can_not_be_written_is_no_defect(served, beside: ServedKeystore, make) -> None:
    (served.path / "inbox").mkdir(exist_ok=True)
    (served.path / "inbox" / "run-6").write_bytes(b"a file where a folder belongs")
    data = shard_bytes([seal_record(make.record("y.png", run_id="run-6"), beside.ingest_public_key)])
    answer = served.call("PUT", "/v1/inbox/run-6/part-0", served.token("ingest", "job", "photos"), content=data)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert not [line for line in served.lines() if "defect" in line]


def test_a_body_that_is_too_large_is_not_read(served) -> None:
    token = served.token("requester", "alice")
    limit = ENDPOINTS["file_request"].body_bytes
    assert served.call("POST", "/v1/requests", token, content=b"x" * (limit + 1)).status_code == 413

    def parts():
        for _ in range(100):
            yield b"x" * 4096

    answer = served.call("POST", "/v1/requests", token, content=parts())
    assert answer.status_code == 413, "a body that does not say how long it is is counted"
    assert served.call("GET", "/v1/requests", token, content=b"body").status_code == 413
    assert served.call("POST", "/v1/requests", content=b"x" * (limit + 1)).status_code == 401, "a token comes first"


@pytest.mark.slow
def test_a_client_that_takes_its_time_is_left(served) -> None:
    plain = socket.create_connection(("127.0.0.1", served.port))
    slow = served.ssl.wrap_socket(plain, server_hostname="127.0.0.1")
    slow.settimeout(server.HEADER_SECONDS * 3)
    begin = time.monotonic()
    with pytest.raises((OSError, ssl.SSLError)):
        slow.sendall(b"GET /v1/health HTTP/1.1\r\n")
        while time.monotonic() - begin < server.HEADER_SECONDS * 3:
            slow.sendall(b"X-Slow: 1\r\n")
            time.sleep(0.5)
    assert time.monotonic() - begin < server.HEADER_SECONDS + 5
    slow.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (64 * server.MAX_HEADER_BYTES) + b"\r\n\r\n",
        b"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"\x16\x03\x01\x00\x00\r\n\r\n",
        b"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET\0 /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_400(sent: bytes, served) -> None:
    plain = socket.create_connection(("127.0.0.1", served.port))
    with served.ssl.wrap_socket(plain, server_hostname="127.0.0.1") as spoken:
        spoken.settimeout(30)
        with contextlib.suppress(OSError):  # it need not wait for the end
            spoken.sendall(sent)
        assert spoken.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))
    assert served.call("GET", "/v1/health").status_code == 200


def test_refusals_do_not_flood_the_log(served, beside: ServedKeystore, make) -> None:
    request_id = make.request(beside, "c.png", requester="dora").request_id
    token = served.token("approver", "impatient")
    before = len(beside.audit_entries())
    statuses = []
    for _ in range(REFUSALS_PER_HOUR + 10):
        answer = served.call("POST", f"/v1/requests/{request_id}/approval", token, json={"digest": "0" * 64})
        statuses.append(answer.status_code)
    assert statuses.count(409) <= REFUSALS_PER_HOUR and statuses[-1] == 429
    assert int(answer.headers["retry-after"]) > 0
    assert len(beside.audit_entries()) - before <= REFUSALS_PER_HOUR
    other = served.call(
        "POST",
        f"/v1/requests/{request_id}/approval",
        served.token("approver", "patient"),
        json={"digest": beside.show(request_id).digest},
    )
    assert other.status_code == 200, "others go on"


def test_who_has_no_token_writes_nothing(served, beside: ServedKeystore) -> None:
    before = beside.checkpoint()
    for name, endpoint in ENDPOINTS.items():
        if endpoint.roles:
            assert (
                served.call(endpoint.method, endpoint.path, "kat1_" + "0" * 16 + "_" + "0" * 64).status_code == 401
            ), name
    assert beside.checkpoint() == before


def test_logs_and_metrics_hold_no_secret_no_name_and_no_purpose(served, beside: ServedKeystore) -> None:
    purpose = "find the " + "".join(("can", "ary"))
    token = served.token("requester", "canaryperson")
    basis = f"consent: {purpose}"
    body = {"images": ["a.png"], "case": purpose, "purpose": purpose, "legal_basis": basis, "lifetime_seconds": 600}
    assert served.call("POST", "/v1/requests", token, json=body).status_code == 200
    assert served.call("POST", "/v1/requests", token, json={**body, "lifetime_seconds": purpose}).status_code == 422
    assert served.call("GET", f"/v1/requests/{purpose}?x={purpose}", token, headers={"X": purpose}).status_code == 404
    metrics = served.call("GET", "/v1/metrics", served.token("operator", "oscar")).text
    assert 'keyanon_calls_total{endpoint="file_request",status="200"}' in metrics
    told = served.log.read_text() + metrics
    for secret in ("canary", "a.png", *(text.split("_")[2] for text in served.tokens.values())):
        assert secret not in told
    line = next(line for line in reversed(served.lines()) if line.get("endpoint") == "file_request")
    assert set(line) == {"time", "event", "status", "milliseconds", "endpoint", "token", "role"}
    assert json.dumps(purpose) not in told


def test_it_is_not_ready_while_it_could_not_write_and_says_why_to_its_operator_only(
    served, beside: ServedKeystore
) -> None:
    assert served.call("GET", "/v1/ready").status_code == 200
    note = served.path / "witness" / "checkpoint"
    kept = note.read_bytes()
    token = served.token("requester", "canaryperson")
    note.unlink()
    try:
        body = {
            "images": ["a.png"],
            "case": "c",
            "purpose": "find somebody",
            "legal_basis": "legal-obligation: law",
            "lifetime_seconds": 600,
        }
        refused = served.call("POST", "/v1/requests", token, json=body)
        assert refused.status_code == 503 and "witness" not in refused.text
        assert served.call("GET", "/v1/ready").status_code == 503
    finally:
        note.write_bytes(kept)
    assert any("witness" in line.get("detail", "") for line in served.lines())


def test_a_requester_has_a_bounded_number_of_open_requests(served, beside: ServedKeystore, make) -> None:
    from keystore.service.calls import MAX_OPEN_REQUESTS

    for _ in range(MAX_OPEN_REQUESTS):
        make.request(beside, "a.png", requester="keen")
    body = {
        "images": ["a.png"],
        "case": "c",
        "purpose": "find somebody",
        "legal_basis": "consent",
        "lifetime_seconds": 600,
    }
    answer = served.call("POST", "/v1/requests", served.token("requester", "keen"), json=body)
    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-open")


def test_a_malformed_recipient_uses_no_grant(served, beside: ServedKeystore, make) -> None:
    request_id = make.approved_by(beside, "c.png", "bob", "carol")
    token = served.token("recovery", "alice")
    for recipient in ("", "x", base64.b64encode(b"short").decode(), base64.b64encode(b"\xff" * 1216).decode()):
        path = f"/v1/requests/{request_id}/release"
        assert served.call("POST", path, token, json={"recipient": recipient}).status_code == 422, recipient
    assert beside.show(request_id).state == "approved"


def test_a_token_is_issued_for_a_time_and_an_ingest_token_for_a_data_set(beside: ServedKeystore) -> None:
    from keystore.errors import TokenError

    for role, lifetime, dataset in (
        (Role.INGEST, timedelta(days=1), None),
        (Role.AUDITOR, timedelta(days=367), None),
        (Role.AUDITOR, timedelta(0), None),
        (Role.AUDITOR, timedelta(days=1), ""),
    ):
        with pytest.raises(TokenError):
            beside.issue_token("eve", role, lifetime, "oscar", dataset=dataset)
    with pytest.raises(TokenError):
        beside.revoke_token("0" * 16, "oscar")
