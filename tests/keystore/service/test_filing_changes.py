"""Changes of who decides over HTTPS: an operator files them, approvers sign them, and no token alone changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import utc_now
from keystore.decisions.proposals import Enrolment, PolicyProposal, Proposal, Removal
from keystore.errors import ApprovalError, PolicyError, Refusal, RequestNotFound
from keystore.served import ServedKeystore
from keystore.service.client import ServiceClient
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH, copy_keystore, remove_keystore
from tests.keystore.serving import Served

pytestmark = pytest.mark.usefixtures("trusted")
Keys = dict[str, ApproverKey]


@pytest.fixture
def office(filled_template: Path, tls: Path, tmp_path: Path) -> Iterator[Served]:
    """A keystore of this test's own, served."""
    path = copy_keystore(filled_template, tmp_path / "ks")
    server = Served(path, tls)
    yield server
    server.stop()
    remove_keystore(path)


@pytest.fixture
def keys(office: Served) -> Keys:
    """Of three enrolled approvers; from the second on they sign changes."""
    made = {name: ApproverKey.generate() for name in ("bob", "carol", "dora")}
    with ServedKeystore.open(office.path) as keystore:
        for name in ("bob", "carol"):
            assert keystore.enrol_approver(name, "dpo", made[name].public_line, "oscar", "olga") is None
    filed = office.client("operator", "olga").propose(
        Enrolment(approver="dora", role="legal", public_line=made["dora"].public_line)
    )
    assert sign(office, filed, {name: made[name] for name in ("bob", "carol")}) == "applied"
    return made


def sign(office: Served, request_id: str, keys: Keys) -> str:
    """Have a change signed by approvers elsewhere, who compute its digest from what the service shows; return its state."""
    state = ""
    for name, key in keys.items():
        approver = office.client("approver", name)
        shown = approver.show(request_id)
        state = approver.approve(
            request_id, name, shown.digest, key.sign(shown, approver.audit_vkey, utc_now())
        ).state.value
    return state


@ON_BOTH
def test_each_kind_of_change_is_filed_by_an_operator_and_made_by_signatures(office: Served, keys: Keys) -> None:
    operator = office.client("operator", "olga")
    erin = ApproverKey.generate()
    signing = {name: keys[name] for name in ("bob", "carol")}
    proposals: list[Proposal] = [
        PolicyProposal(max_images=7, own_keys=True),
        PolicyProposal(break_glass=["Eva"]),
        Enrolment(approver="erin", role="legal", public_line=erin.public_line),
        Removal(key=keys["dora"].key_id),
    ]
    for proposal in proposals:
        before = (operator.policy(), operator.approvers())
        request_id = operator.propose(proposal)
        assert (operator.policy(), operator.approvers()) == before, "filed, and nothing is changed"
        assert operator.show(request_id).requester == "olga"
        assert sign(office, request_id, signing) == "applied"
    policy = operator.policy()
    assert (policy.max_images, policy.own_keys, len(policy.break_glass)) == (7, True, 1)
    assert [one.person for one in operator.approvers() if one.removed_at is None] == ["erin", "carol", "bob"]
    assert {one.request_id for one in operator.requests()} == {
        one.request_id for one in operator.requests() if one.change
    }
    report = verify_audit(office.path)
    assert report.problems == []


def refused(call: Any) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return error.value.code


def test_where_names_decide_a_token_files_nothing(office: Served) -> None:
    operator = office.client("operator", "olga")
    line = ApproverKey.generate().public_line
    before = (operator.policy(), operator.approvers())
    for proposal in (PolicyProposal(max_images=7), Enrolment(approver="bob", role="dpo", public_line=line)):
        assert refused(lambda proposal=proposal: operator.propose(proposal)) == "names-decide"
    assert (operator.policy(), operator.approvers(), operator.requests()) == (*before, [])
    assert verify_audit(office.path).problems == []


def test_who_files_does_not_sign_and_withdraws_what_is_theirs_only(office: Served, keys: Keys) -> None:
    operator, other = office.client("operator", "bob"), office.client("operator", "oscar")
    request_id = operator.propose(PolicyProposal(max_images=7))
    with pytest.raises(ApprovalError, match="person who made it"):
        sign(office, request_id, {"bob": keys["bob"]})
    for call in (lambda: other.show(request_id), lambda: other.deny(request_id, "oscar")):
        with pytest.raises(RequestNotFound):
            call()
    assert other.requests() == [] and operator.deny(request_id, "bob").state == "denied"
    with ServedKeystore.open(office.path) as keystore:
        asked = keystore.request("bob", ["a.png"], "C-1", "identify a person", "court-order", timedelta(hours=1))
    with pytest.raises(RequestNotFound):
        operator.show(asked.request_id)
    assert [one.request_id for one in operator.requests()] == [request_id], "of requests for keys an operator sees none"


def test_what_can_not_be_is_refused_as_on_the_machine(office: Served, keys: Keys) -> None:
    operator = office.client("operator", "olga")
    with pytest.raises(PolicyError, match="approvals"):
        operator.propose(PolicyProposal(approvals=1))
    with pytest.raises(PolicyError, match="nothing could be approved"):
        operator.propose(PolicyProposal(approvals=5))
    assert refused(lambda: operator.propose(Removal(key="0" * 64))) == "unknown-key"
    twice = Enrolment(approver="dora", role="dpo", public_line=ApproverKey.generate().public_line)
    assert refused(lambda: operator.propose(twice)) == "enrolled"
    assert (
        refused(lambda: operator.propose(Enrolment(approver="erin", role="dpo", public_line="no key"))) == "public-key"
    )
    for role in ("requester", "approver", "recovery", "auditor"):
        stranger: ServiceClient = office.client(role, "mallory")
        with pytest.raises(RequestNotFound):
            stranger.propose(PolicyProposal(max_images=7))
