"""The service over a keystore in PostgreSQL: from the request to the release, by people with tokens."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from keystore.recipient import Expected, Recipient
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import Postgres, copy_keystore, remove_keystore
from tests.keystore.serving import Served


@pytest.mark.slow
def test_the_service_serves_a_keystore_in_postgresql(
    postgres_template: Path, postgres: Postgres, tls: Path, tmp_path: Path
) -> None:
    path = copy_keystore(postgres_template, tmp_path / "ks")
    server = Served(path, tls)
    try:
        alice, recovery = server.token("requester", "alice"), server.token("recovery", "alice")
        asked = {
            "images": ["a.png"],
            "case": "C-17",
            "purpose": "identify a missing person",
            "legal_basis": "court-order: 12/26",
            "lifetime_seconds": 7200,
        }
        answer = server.call("POST", "/v1/requests", alice, json=asked)
        assert answer.status_code in (200, 201), answer.text
        request = answer.json()
        for name in ("bob", "carol"):
            approval = {"digest": request["digest"]}
            place = f"/v1/requests/{request['request_id']}/approval"
            assert server.call("POST", place, server.token("approver", name), json=approval).status_code == 200
        recipient = Recipient.generate()
        body = {"recipient": base64.b64encode(recipient.public_key).decode()}
        released = server.call("POST", f"/v1/requests/{request['request_id']}/release", recovery, json=body)
        assert released.status_code == 200, released.text
        with ServedKeystore.open(path) as keystore:
            expected = Expected.of(keystore.show(request["request_id"]), keystore.audit_vkey)
        assert [one.image_id for one in recipient.open(released.content, expected)] == ["a.png"]
        other = {"recipient": base64.b64encode(Recipient.generate().public_key).decode()}
        again = server.call("POST", f"/v1/requests/{request['request_id']}/release", recovery, json=other)
        assert again.status_code in (403, 409), again.text
        report = verify_audit(path)
        assert report.ok, report.problems
    finally:
        server.stop()
        remove_keystore(path)
