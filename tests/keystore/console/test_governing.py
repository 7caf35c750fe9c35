"""Pages about who decides: a change as its operator and its approvers see it, and breaking the glass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keystore.approver_key import ApproverKey
from keystore.decisions.proposals import PolicyProposal, Replacement
from keystore.served import ServedKeystore
from keystore.verification.verify import verify_audit
from tests.keystore.console.conftest import ServedConsole
from tests.keystore.console.driving import Tab

WORDS = {
    "case": "C-9",
    "purpose": "a child is missing, every minute counts",
    "legal_basis": "public-task: police act 12",
}
OTHERS = ("oscar", "olga")


class ServedForEmergencies(ServedConsole):
    """As in conftest, with `--break-glass`."""

    def arguments(self, port: int) -> list[str]:
        return [*super().arguments(port), "--break-glass"]


@pytest.fixture(scope="module")
def served(template: Path, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedForEmergencies]:
    """A keystore that holds the records of a.png, b.png and c.png, served with its console."""
    path = tmp_path_factory.mktemp("console") / "ks"
    shutil.copytree(template, path)
    server = ServedForEmergencies(path, tls)
    yield server
    server.stop()


def test_the_glass_is_broken_by_a_form_and_its_review_is_among_the_requests(served, beside: ServedKeystore) -> None:
    eva, other = served.person("requester", "eva"), served.person("requester", "mallory")
    asked = {**WORDS, "images": "a.png", "dataset": ""}
    assert "break-glass" not in eva.get("/filing").text
    off = eva.post("/break-glass", **asked)
    assert off.status_code == 409 and "break-glass-off" in off.text and WORDS["purpose"] in off.text
    assert beside.propose(PolicyProposal(break_glass=["eva"]), *OTHERS) is None
    assert "/console/break-glass" in eva.get("/filing").text
    form = eva.get("/break-glass").text
    assert "nobody approves this first" in form and 'name="hours"' not in form
    assert "break-glass-person" in other.post("/break-glass", **asked).text
    assert eva.post("/break-glass", **{**asked, "images": ""}).status_code == 422
    done = eva.post("/break-glass", **asked)
    assert done.status_code == 303
    request_id = done.headers["location"].rsplit("/", 1)[1]
    page = eva.get(f"/requests/{request_id}").text
    assert "Others have to review it" in page and "approved" in page
    assert "break-glass-unreviewed" in eva.post("/break-glass", **asked).text
    for name in ("bob", "carol"):
        beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, *OTHERS)
    review = beside.review(request_id, "olga")
    approver = served.person("approver", "bob")
    assert "Review of a break of the glass" in approver.get("/requests").text
    told = approver.get(f"/requests/{review}/approval").text
    assert "the glass was broken by" in told and request_id in told and "eva (" in told


def test_who_files_a_change_sees_it_and_withdraws_it_and_sees_no_request_for_keys(
    served, beside: ServedKeystore, make
) -> None:
    for name in ("bob", "carol"):
        if name not in {one.person for one in beside.approvers()}:
            beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, *OTHERS)
    old = next(one.key for one in beside.approvers() if one.person == "bob" and one.removed_at is None)
    proposal = Replacement(key=old, public_line=ApproverKey.generate().public_line)
    mine, theirs = (str(beside.propose(proposal, name)) for name in ("paul", "oscar"))
    asked = make.request(beside, "a.png", requester="paul").request_id
    operator = served.person("operator", "paul")
    listed = operator.get("/requests").text
    assert mine in listed and theirs not in listed and asked not in listed
    told = operator.get(f"/requests/{mine}").text
    assert "replace the key" in told and "by the key" in told and old in told and "Withdraw" in told
    assert operator.get(f"/requests/{theirs}").status_code == 404 == operator.get(f"/requests/{asked}").status_code
    assert operator.get("/filing").status_code == 404 == operator.get("/break-glass").status_code
    assert operator.post(f"/requests/{mine}/withdrawal").status_code == 303
    assert beside.show(mine).state == "denied"
    assert verify_audit(beside.path).problems == []


def test_an_operator_files_each_kind_of_change_by_a_form_and_approvers_see_who_decides(
    served, beside: ServedKeystore
) -> None:
    operator, approver = served.person("operator", "paul"), served.person("approver", "bob")
    for name in ("bob", "carol"):
        if name not in {one.person for one in beside.approvers()}:
            beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, *OTHERS)
    key = next(one.key for one in beside.approvers() if one.person == "bob" and one.removed_at is None)
    seen = approver.get("/who-decides").text
    assert key in seen and "File a change" not in seen and "File a change" in operator.get("/who-decides").text
    line = ApproverKey.generate().public_line
    forms = {
        "enrol the key": {
            "kind": "enrol-approver",
            "approver": "dora",
            "role": "legal",
            "public_line": "Hand this out:\r\n" + line,
        },
        "replace the key": {"kind": "replace-approver", "key": key, "public_line": line},
        "policy: max images": {"kind": "policy", "max_images": "7", "approvals": ""},
        "policy: legal bases": {"kind": "policy", "legal_bases": "consent\r\npolice-act"},
        "policy: break glass": {"kind": "policy", "break_glass": "eva\r\nfinn"},
    }
    for says, fields in forms.items():
        before = (beside.policy(), beside.approvers())
        done = operator.post("/who-decides", **fields)
        assert done.status_code == 303, done.text
        page = operator.get(done.headers["location"].removeprefix("/console")).text
        assert says in page and "Nothing is changed before" in page
        assert (beside.policy(), beside.approvers()) == before
    wrong = operator.post(
        "/who-decides", kind="enrol-approver", approver="<b>dora", role="legal", public_line="no line"
    )
    assert wrong.status_code == 409 and "public-key" in wrong.text and "&lt;b&gt;dora" in wrong.text
    assert operator.post("/who-decides", kind="policy", approvals="many").status_code == 422
    assert operator.post("/who-decides", kind="king").status_code == 422
    assert "unknown-key" in operator.post("/who-decides", kind="remove-approver", key="0" * 64).text
    assert "not-broken" in operator.post("/who-decides", kind="review", request="x").text
    assert approver.post("/who-decides", **forms["policy: max images"]).status_code == 404


def test_a_change_is_filed_by_the_keyboard_in_a_browser(browser: Any, served, beside: ServedKeystore) -> None:
    for name in ("bob", "carol"):
        if name not in {one.person for one in beside.approvers()}:
            beside.enrol_approver(name, "dpo", ApproverKey.generate().public_line, *OTHERS)
    tab = Tab(browser, served.origin)
    try:
        tab.sign_in(served.token("operator", "paul"))
        tab.push("Who decides")
        tab.check()
        tab.reach("Change the policy…")
        tab.press("Enter")
        tab.check()
        tab.write("Images at most", "7")
        tab.push("File the policy")
        assert "Nothing is changed before" in tab.text() and "100 -> 7" in tab.text()
        tab.check()
        assert tab.complaints == []
    finally:
        tab.close()
