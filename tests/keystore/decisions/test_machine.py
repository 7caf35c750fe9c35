"""The life of requests as a machine of random steps, beside a model of the rules that is written out here and knows no database.

Whatever people do in whatever order, the keystore lets through what the model lets through, refuses the rest by the model's code,
and its log verifies at the end with exactly the releases that the model allowed.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from keystore.approver_key import ApproverKey
from keystore.crypto.canonical import timestamp
from keystore.decisions.lifecycle import State
from keystore.decisions.policy import Policy
from keystore.decisions.proposals import Replacement
from keystore.decisions.signatures import OwnSignature
from keystore.emergency import EmergencyKeystore
from keystore.errors import ClockError, Refusal
from keystore.recipient import Expected, Recipient
from keystore.verification import verify
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH, copy_keystore, remove_keystore

IMAGES = ("a.png", "b.png", "c.png")
PEOPLE = ("alice", "bob", "carol", "dave")
MACHINES, STEPS = {"sqlite": 72, "postgresql": 3}, 140  # more than 10,000 steps
FAST = Path("/dev/shm")  # what is killed and lost is tried elsewhere

people = st.sampled_from(PEOPLE)
spelled = st.sampled_from((str.lower, str.upper, str.title))
seldom = st.integers(0, 9)  # what would end all other life too soon is done at 0 only, or little above
positions = st.integers(0, 1000)
signings = st.sampled_from(("as asked", "as asked", "kept", "own", "foreign", "removed", "other content", "long ago"))
roles = st.sampled_from(("dpo", "legal"))
hours = st.sampled_from((0.5, 30, 24 * 6, 24 * 8))


@dataclass
class ModelChange:
    """A change of who decides. whose: whom it benefits; blocked: the code by which it can not be made now."""

    whose: str | None
    blocked: Callable[[], str | None]
    make: Callable[[], None]


@dataclass
class ModelRequest:
    """What the rules know of a request: approvals are the people who approved the present content, with the role and the key of
    those who signed with one of their own."""

    request_id: str
    requester: str
    digest: str
    images: tuple[str, ...]
    policy: Policy
    expires: datetime
    state: str = "pending"
    grant_expires: datetime | None = None
    approvals: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    old_digests: list[str] = field(default_factory=list)
    change: ModelChange | None = None
    broke_glass: bool = False  # by which the present content was granted

    def is_enough(self, *more: tuple[str, str] | None) -> bool:
        """Whether these people are enough to open what is asked for, and one more."""
        owned = [*self.approvals.values(), *more]
        present = {own[0] for own in owned if own is not None}
        return len(owned) >= self.policy.approvals and set(self.policy.roles) <= present

    def at(self, now: datetime) -> str:
        """The state that time has left of it."""
        ended = now >= self.expires or (self.grant_expires is not None and now >= self.grant_expires)
        return "expired" if self.state in ("pending", "approved") and ended else self.state


class Machine(RuleBasedStateMachine):
    """Drives a keystore and the model by the same steps."""

    template: Path
    seen: Counter[str]  # over all machines: codes of refusals, and releases

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=FAST if FAST.is_dir() else None))
        copy_keystore(self.template, self.directory / "ks")
        self.now = datetime.fromisoformat("2026-11-27T00:00:00+00:00")
        self.keystore = self.opened()
        self.now = max(self.now, datetime.fromisoformat(json.loads(self.keystore.audit_entries()[-1])["time"]))
        self.policy = Policy()
        self.requests: list[ModelRequest] = []
        self.erased: set[str] = set()
        self.gone: set[str] = set()
        self.released: list[tuple[str, ...]] = []
        self.recipient = Recipient.generate()
        self.keys: dict[str, tuple[ApproverKey, str]] = {}  # of those who are enrolled, with their role
        self.foreign, self.removed = ApproverKey.generate(), ApproverKey.generate()
        self.known: set[str] = set()  # ids of keys that were ever enrolled
        self.signed = False  # whether approvers sign changes of who decides
        self.breaks: list[ModelRequest] = []  # of the glass, oldest first
        self.reviewed = 0  # how many of them

    def opened(self) -> EmergencyKeystore:
        return EmergencyKeystore.open(self.directory / "ks", clock=lambda: self.now)

    @contextlib.contextmanager
    def expecting(self, code: str | None) -> Iterator[None]:
        """The keystore refuses by this code, or lets through."""
        if code is None:
            yield
            return
        with pytest.raises(Refusal) as refused:
            yield
        assert refused.value.code == code
        self.seen[code] += 1

    def chosen(self, position: int) -> ModelRequest:
        return self.requests[position % len(self.requests)]

    def after(self, person: str, code: str | None) -> str | None:
        """The code of what a person asks for: first of all, who was erased is nobody."""
        return "erased-person" if person in self.gone else code

    @rule(person=people, spell=spelled, images=st.sets(st.sampled_from(IMAGES), min_size=1), lifetime=hours)
    def file(self, person: str, spell: Any, images: set[str], lifetime: float) -> None:
        self._file(person, spell, images, lifetime)

    def _file(self, person: str, spell: Any, images: set[str], lifetime: float) -> None:
        names = tuple(sorted(images))
        code = "unknown-record" if images & self.erased else None
        if code is None and timedelta(hours=lifetime) > timedelta(seconds=self.policy.max_lifetime_seconds):
            code = "lifetime"
        words = {"case": "C-17", "purpose": "identify a missing person", "legal_basis": "court-order: 12/26"}
        with self.expecting(code if code == "unknown-record" else self.after(person, code)):
            view = self.keystore.request(spell(person), list(names), **words, expires=timedelta(hours=lifetime))
            expires = self.now + timedelta(hours=lifetime)
            self.requests.append(ModelRequest(view.request_id, person, view.digest, names, self.policy, expires))

    @precondition(lambda self: self.requests)
    @rule(position=positions, person=people, purpose=st.sampled_from(("identify a missing person", "another purpose")))
    def change(self, position: int, person: str, purpose: str) -> None:
        request = self.chosen(position)
        state = request.at(self.now)
        code = f"state-{state}" if state not in ("pending", "approved") else None
        if code is None and person != request.requester:
            code = "not-requester"
        if request.change is not None:
            code = "is-change"
        with self.expecting(self.after(person, code)):
            view = self.keystore.change(request.request_id, person, purpose=purpose)
            assert view.digest != request.digest
            request.old_digests.append(request.digest)
            request.digest, request.approvals, request.state, request.grant_expires = (
                view.digest,
                {},
                "pending",
                None,
            )
            request.policy, request.broke_glass = self.policy, False

    @precondition(lambda self: self.requests)
    @rule(
        position=positions,
        person=people,
        spell=spelled,
        shown=st.sampled_from(("present", "present", "old", "none")),
        signing=signings,
    )
    def approve(self, position: int, person: str, spell: Any, shown: str, signing: str) -> None:
        self._approve(self.chosen(position), person, spell, shown, signing)

    @precondition(lambda self: self.requests)
    @rule(position=positions, persons=st.lists(people, min_size=2, max_size=4))
    def approve_one_after_the_other(self, position: int, persons: list[str]) -> None:
        for person in persons:
            self._approve(self.chosen(position), person, str.lower, "present")

    def _signed(self, request: ModelRequest, person: str, signing: str) -> tuple[OwnSignature | None, str | None]:
        """A signature of a kind, and by which code it is refused from this person."""
        key, _ = self.keys.get(person, (None, ""))
        if signing == "kept" or (signing == "as asked" and key is None):
            own = self.policy.own_keys or request.change is not None
            return None, "own-key" if key else ("not-enrolled" if own else None)
        other = {"foreign": self.foreign, "removed": self.removed}.get(signing)
        used = other or key or self.foreign
        view = self.keystore.show(request.request_id)
        own = used.sign(
            view, self.keystore.audit_vkey, self.now - timedelta(hours=1) if signing == "long ago" else self.now
        )
        if signing == "other content":
            own = OwnSignature(
                own.key_id,
                timestamp(self.now),
                used.sign(view, self.keystore.audit_vkey, self.now - timedelta(seconds=1)).signature,
            )
        if key is None or used is not key:
            return own, "wrong-key" if key else "not-enrolled"
        return own, {"long ago": "signed-when", "other content": "signature"}.get(signing)

    def _approve(self, request: ModelRequest, person: str, spell: Any, shown: str, signing: str = "as asked") -> None:
        digest = {"present": request.digest, "old": (request.old_digests or ["0" * 64])[-1], "none": "0" * 64}[shown]
        state = request.at(self.now)
        code = f"state-{state}" if state != "pending" else None
        if code is None and person == request.requester:
            code = "self-approval"
        if code is None and request.change is not None and person == request.change.whose:
            code = "own-benefit"
        if code is None and digest != request.digest:
            code = "changed"
        if code is None and person in request.approvals:
            code = "twice"
        own, refused = self._signed(request, person, signing)
        code = self.after(person, code or refused)
        given = None if own is None or code is not None else (self.keys[person][1], own.key_id)
        if code is None and request.change is not None and request.is_enough(given):
            code = request.change.blocked()
        with self.expecting(code):
            self.keystore.approve(request.request_id, spell(person), digest, own)
            request.approvals[person] = given
            self.seen["own key" if own else "kept key"] += 1
            if request.is_enough() and request.change is not None:
                request.state = "applied"
                request.change.make()
                self.seen["applied"] += 1
            elif request.is_enough():
                request.state = "approved"
                request.grant_expires = min(
                    request.expires, self.now + timedelta(seconds=self.policy.grant_lifetime_seconds)
                )

    @precondition(lambda self: self.requests)
    @rule(position=positions, person=people, really=seldom)
    def deny(self, position: int, person: str, really: int) -> None:
        if really > 2:  # denied requests would be most of all
            return
        request = self.chosen(position)
        state = request.at(self.now)
        with self.expecting(self.after(person, None if state in ("pending", "approved") else f"state-{state}")):
            self.keystore.deny(request.request_id, person)
            request.state = "denied"

    @precondition(lambda self: self.requests)
    @rule(position=positions, person=st.none() | people)
    def release(self, position: int, person: str | None) -> None:
        request = self.chosen(position)
        self._release(request, person or request.requester)

    @rule(image=st.sampled_from(IMAGES), people_in_order=st.permutations(PEOPLE), own=st.booleans(), really=seldom)
    def all_the_way(self, image: str, people_in_order: list[str], own: bool, really: int) -> None:
        """What random steps seldom come to: a request, everybody's approval, its release, and another; with keys of their own."""
        if really > 3:
            return
        if own:
            for person, role in zip(people_in_order, ("dpo", "legal") * 2, strict=True):
                self._enrol(person, role, set(PEOPLE) - self.gone, ApproverKey.generate())
                self._sign_all()
            self._set_policy(*people_in_order[:2], Policy(own_keys=True, roles=("dpo", "legal")))
            self._sign_all()
        before, requester = len(self.requests), people_in_order[0]
        self._file(requester, str.title, {image}, 2)
        for request in self.requests[before:]:
            for person in people_in_order:
                self._approve(request, person, str.lower, "present")
            for person in (people_in_order[1], requester, requester):
                self._release(request, person)

    def _release(self, request: ModelRequest, person: str) -> None:
        state = request.at(self.now)
        code = {"released": "used", "applied": "applied", "expired": "expired", "denied": "denied"}.get(state)
        if code is None and person != request.requester:
            code = "not-requester"
        if code is None and state != "approved":
            code = "not-approved"
        if code is None and set(request.images) & self.erased:
            code = "erased-record"
        with self.expecting(self.after(person, code)):
            sealed = self.keystore.release(request.request_id, self.recipient.public_key, person)
            approved = len(request.approvals.keys() - {request.requester}) >= max(2, request.policy.approvals)
            assert approved != request.broke_glass
            assert all(request.approvals.values()) or not request.policy.own_keys
            self.seen["release of broken glass"] += request.broke_glass
            self.seen["release of own keys"] += request.policy.own_keys
            self.seen["release of roles"] += bool(request.policy.roles)
            expected = Expected.of(self.keystore.show(request.request_id), self.keystore.audit_vkey)
            records = self.recipient.open(sealed, expected)
            assert tuple(sorted(record.image_id for record in records)) == request.images
            request.state = "released"
            self.released.append(request.images)
            self.seen["release"] += 1

    @rule(
        first=people,
        second=people,
        approvals=st.integers(2, 3),
        own=st.booleans(),
        roles=st.sampled_from(((), ("dpo",), ("dpo", "legal"))),
        really=seldom,
    )
    def set_policy(
        self, first: str, second: str, approvals: int, own: bool, roles: tuple[str, ...], really: int
    ) -> None:
        if really > 3:
            return
        self._set_policy(first, second, Policy(approvals=approvals, own_keys=own, roles=roles if own else ()))

    @rule(image=st.sampled_from(IMAGES), people_in_order=st.permutations(PEOPLE), really=seldom)
    def a_policy_and_back(self, image: str, people_in_order: list[str], really: int) -> None:
        """What everybody approved, before the policy is changed and changed back."""
        if really > 1 or self.policy.break_glass:
            return
        before, policy, requester = len(self.requests), self.policy, people_in_order[0]
        self._file(requester, str.title, {image}, 2)
        asked = self.requests[before:]
        for request in asked:
            for person in people_in_order:
                self._approve(request, person, str.lower, "present")
        for one in (policy.model_copy(update={"max_images": 50}), policy):
            self._set_policy(*people_in_order[1:3], one)
            self._sign_all()
        for request in asked:
            self._release(request, requester)
            self.seen["denied under a policy that came back"] += request.state == "denied" and policy == self.policy

    def _begin(self, policy: Policy) -> None:
        """Another policy is in force, and what was open under the one before is not."""
        self.policy = policy
        for request in self.requests:
            if request.at(self.now) in ("pending", "approved"):
                request.state = "denied"

    def can_sign(self, policy: Policy, *without: str | None) -> bool:
        """Whether enough have keys of their own, of all roles, to sign a change."""
        enrolled = [role for person, (_, role) in self.keys.items() if person not in without]
        return len(enrolled) >= policy.approvals and set(policy.roles) <= set(enrolled)

    def _set_policy(self, first: str, second: str, policy: Policy) -> None:
        def blocked() -> str | None:
            return None if self.can_sign(policy) or not (policy.own_keys or self.signed) else "approvers"

        change = ModelChange(None, blocked, lambda: self._begin(policy))
        alone = "policy-alone" if first == second else None
        self._change(change, [first, second], alone, lambda: self.keystore.set_policy(policy, first, second))

    def _change(self, change: ModelChange, by: list[str], names: str | None, ask: Callable[[], str | None]) -> None:
        """A change of who decides: made by names, or filed by the first of them. names: the code of too few of these."""
        code = change.blocked()
        if self.signed:
            if code is None and not self.can_sign(self.policy, by[0], change.whose):
                code = "approvers"
            by = by[:1]
        elif code != "unknown-key":
            code = names or code
        with self.expecting("erased-person" if set(by) & self.gone else code):
            request_id = ask()
            assert (request_id is not None) == self.signed
            if request_id is None:
                change.make()
                self.signed = self.can_sign(self.policy)
                return
            digest, expires = self.keystore.show(request_id).digest, self.now + timedelta(days=7)
            self.requests.append(ModelRequest(request_id, by[0], digest, (), self.policy, expires, change=change))
            self.seen["filed"] += 1

    def _sign_all(self) -> None:
        """Everybody is asked to sign the change that was filed last."""
        if self.requests and self.requests[-1].change is not None:
            for person in PEOPLE:
                self._approve(self.requests[-1], person, str.lower, "present")

    @rule(person=people, role=roles, by=st.sets(people, min_size=1), everybody=seldom, again=seldom)
    def enrol(self, person: str, role: str, by: set[str], everybody: int, again: int) -> None:
        """A key of one's own goes on the list; most often everybody agrees to it."""
        by = by if everybody == 0 else set(PEOPLE) - self.gone
        self._enrol(person, role, by, self.removed if again == 0 else ApproverKey.generate())

    def _enrol(self, person: str, role: str, by: set[str], key: ApproverKey) -> None:
        def blocked() -> str | None:
            if person in self.gone:
                return "erased-person"
            return "enrolled" if person in self.keys else "known-key" if key.key_id in self.known else None

        def make() -> None:
            self.keys[person] = (key, role)
            self.known.add(key.key_id)
            if key is self.removed:
                self.removed = ApproverKey.generate()

        alone = "approver-alone" if len(by - {person}) < self.policy.approvals and person not in self.gone else None
        self._change(
            ModelChange(person, blocked, make),
            sorted(by),
            alone,
            lambda: self.keystore.enrol_approver(person, role, key.public_line, *sorted(by)),
        )

    @rule(person=people, by=st.sets(people, min_size=1), everybody=seldom, really=seldom)
    def remove(self, person: str, by: set[str], everybody: int, really: int) -> None:
        """A key is lost, and taken off the list."""
        if really > 2:
            return
        by = by if everybody == 0 else set(PEOPLE) - self.gone
        key, _ = self.keys.get(person, (self.foreign, ""))

        def blocked() -> str | None:
            listed = person in self.keys and self.keys[person][0] is key
            return (
                None
                if listed
                else "erased-person"
                if key is not self.foreign and person in self.gone
                else "unknown-key"
            )

        self._change(
            ModelChange(person, blocked, lambda: self._take_off(person)),
            sorted(by),
            "approver-alone" if len(by - {person}) < self.policy.approvals else None,
            lambda: self.keystore.remove_approver(key.key_id, *sorted(by)),
        )

    @rule(person=people, by=st.sets(people, min_size=1), everybody=seldom, again=seldom)
    def replace(self, person: str, by: set[str], everybody: int, again: int) -> None:
        """Another key takes the place of one; most often all agree to it, the holder of the old one too."""
        by = by if everybody == 0 else set(PEOPLE) - self.gone
        old, role = self.keys.get(person, (self.foreign, ""))
        key = self.removed if again == 0 else ApproverKey.generate()

        def blocked() -> str | None:
            if person not in self.keys or self.keys[person][0] is not old:
                return "erased-person" if old is not self.foreign and person in self.gone else "unknown-key"
            return "known-key" if key.key_id in self.known else None

        def make() -> None:
            self._take_off(person)
            self.keys[person] = (key, role)
            self.known.add(key.key_id)
            self.seen["replaced"] += 1

        self._change(
            ModelChange(None, blocked, make),
            sorted(by),
            "approver-alone" if len(by - {person}) < self.policy.approvals else None,
            lambda: self.keystore.propose(Replacement(key=old.key_id, public_line=key.public_line), *sorted(by)),
        )
        if everybody > 6:
            self._sign_all()

    @rule(person=people, first=people, second=people, really=seldom)
    def name_for_break_glass(self, person: str, first: str, second: str, really: int) -> None:
        """From now on this person, and nobody else, may break the glass."""
        if really <= 1:
            self._name_for_break_glass(person, first, second)

    def _name_for_break_glass(self, person: str, first: str, second: str) -> None:
        policy = self.policy.model_copy(update={"break_glass": (person,)})

        def blocked() -> str | None:
            if person in self.gone:
                return "erased-person"
            return None if self.can_sign(policy) or not (policy.own_keys or self.signed) else "approvers"

        benefits = None if person in self.policy.break_glass else person
        change = ModelChange(benefits, blocked, lambda: self._begin(policy))
        alone = "policy-alone" if first == second and person not in self.gone else None
        self._change(change, [first, second], alone, lambda: self.keystore.set_break_glass([person], first, second))

    @rule(person=people, image=st.sampled_from(IMAGES), named=st.booleans())
    def break_glass(self, person: str, image: str, named: bool) -> None:
        """Keys without approvals: for who is named, and once until others have reviewed it."""
        self._break_glass(self.policy.break_glass[0] if named and self.policy.break_glass else person, image)

    @rule(image=st.sampled_from(IMAGES), people_in_order=st.permutations(PEOPLE), really=seldom)
    def an_emergency(self, image: str, people_in_order: list[str], really: int) -> None:
        """What random steps seldom come to: who is named breaks the glass, takes the keys, and all the others review it."""
        if really > 1:
            return
        person, before = people_in_order[0], len(self.breaks)
        self._name_for_break_glass(person, *people_in_order[1:3])
        self._sign_all()
        for who in (person, person):
            self._break_glass(who, image)
        for broken in self.breaks[before:]:
            self._release(broken, person)
            self._review(set(people_in_order[1:]) - self.gone)
            self._sign_all()

    def _break_glass(self, person: str, image: str) -> None:
        code = "unknown-record" if image in self.erased else None
        if code is None and not self.policy.break_glass:
            code = "break-glass-off"
        if code is None and person not in self.policy.break_glass:
            code = "break-glass-person"
        if code is None and len(self.breaks) > self.reviewed:
            code = "break-glass-unreviewed"
        words = ("C-9", "a child is missing, every minute counts", "public-task: police act 12")
        with self.expecting(self.after(person, code)):
            view = self.keystore.break_glass(person, [image], *words)
            expires = self.now + timedelta(hours=1)
            made = ModelRequest(
                view.request_id, person, view.digest, (image,), self.policy, expires, "approved", expires
            )
            made.broke_glass = True
            self.requests.append(made)
            self.breaks.append(made)
            self.seen["broken"] += 1

    @precondition(lambda self: self.breaks)
    @rule(by=st.sets(people, min_size=1), everybody=seldom)
    def review(self, by: set[str], everybody: int) -> None:
        """The last break of the glass is looked into; most often by all."""
        self._review(by if everybody == 0 else set(PEOPLE) - self.gone)
        if everybody > 4:
            self._sign_all()

    def _review(self, by: set[str]) -> None:
        number, broken = len(self.breaks), self.breaks[-1]

        def blocked() -> str | None:
            return "reviewed" if self.reviewed >= number else None

        def make() -> None:
            self.reviewed = number
            self.seen["reviewed"] += 1

        few = len(by - {broken.requester}) < self.policy.approvals and blocked() is None
        self._change(
            ModelChange(broken.requester, blocked, make),
            sorted(by),
            "too-few" if few else None,
            lambda: self.keystore.review(broken.request_id, *sorted(by)),
        )

    @rule(lost=st.sets(people, min_size=1), by=st.sets(people, min_size=2), really=seldom, unknown=seldom)
    def lose_keys(self, lost: set[str], by: set[str], really: int, unknown: int) -> None:
        """Keys are said to be lost: names count again, where too few are left to sign."""
        if really > 2:
            return
        lost = lost if unknown == 0 else lost & self.keys.keys()
        code = "lost-alone" if len(by) < self.policy.approvals else None
        if code is None and lost - self.keys.keys():
            code = "unknown-key"
        if code is None and self.can_sign(self.policy, *lost):
            code = "keys-left"
        ids = [self.keys.get(person, (self.foreign, ""))[0].key_id for person in sorted(lost)]
        with self.expecting("erased-person" if by & self.gone else code):
            self.keystore.lose_keys(ids, *sorted(by))
            for person in lost:
                self._take_off(person)
            self.signed = False
            self.seen["keys lost"] += 1

    def _take_off(self, person: str) -> None:
        self.removed, _ = self.keys.pop(person)
        for request in self.requests:
            rests_on_it = (request.approvals.get(person) or ("", ""))[1] == self.removed.key_id
            if request.state in ("pending", "approved") and rests_on_it:
                request.state = "denied"
                self.seen["ended by a removal"] += 1

    @rule(hours=st.sampled_from((0.01, 0.1, 0.4, 1, 25)))
    def wait(self, hours: float) -> None:
        self.now += timedelta(hours=hours)

    @rule(person=people, minutes=st.integers(1, 600), really=seldom)
    def set_the_clock_back(self, person: str, minutes: int, really: int) -> None:
        """Nothing is written by a clock that lies behind the log."""
        right = self.now
        last = datetime.fromisoformat(json.loads(self.keystore.audit_entries()[-1])["time"])
        self.now = last - timedelta(minutes=minutes)
        words = {"case": "C-17", "purpose": "identify a missing person", "legal_basis": "court-order: 12/26"}
        with pytest.raises(ClockError):
            self.keystore.request(person, ["a.png"], **words, expires=timedelta(hours=1))
        if really or person in self.gone:
            self.now = right
            return
        self.keystore.confirm_clock(person)  # that ends what is open, and what was over by time alone is not again
        for request in self.requests:
            if request.state in ("pending", "approved"):
                request.state = "denied"

    @precondition(lambda self: len(self.erased) < 2)
    @rule(image=st.sampled_from(IMAGES), by=people, really=seldom)
    def erase(self, image: str, by: str, really: int) -> None:
        if really or image in self.erased:  # seldom: what is erased is of no further use
            return
        with self.expecting(self.after(by, None)):
            self.keystore.erase("photos", by=by, image_id=image)
            self.erased.add(image)

    @precondition(lambda self: not self.gone)
    @rule(person=people, by=people, really=seldom)
    def erase_person(self, person: str, by: str, really: int) -> None:
        if really:
            return
        if self.signed and person in self.keys:
            with self.expecting("enrolled-key"):
                self.keystore.erase_person(person, by)
            return
        with contextlib.suppress(Refusal):  # nobody can be erased who never did anything
            self.keystore.erase_person(person, by)
            self.gone.add(person)
            if person in self.keys:
                self._take_off(person)

    @rule(really=seldom)
    def open_again(self, really: int) -> None:
        if really > 2:  # opening checks the log, and took half of all time
            return
        self.keystore.close()
        self.keystore = self.opened()

    @rule()
    def show_all(self) -> None:
        shown = {view.request_id: view.state for view in self.keystore.requests()}
        assert shown == {request.request_id: request.at(self.now) for request in self.requests}
        of_state = {state: self.keystore.requests(state=state) for state in State}
        assert {one.request_id: state for state, found in of_state.items() for one in found} == shown

    def teardown(self) -> None:
        if not hasattr(self, "keystore"):
            return
        leaves = [json.loads(leaf) for leaf in self.keystore.audit_entries()]
        assert sum(leaf["type"] == "release" for leaf in leaves) == len(self.released)
        self.keystore.close()
        report = verify_audit(self.directory / "ks")
        assert report.ok, report.problems
        remove_keystore(self.directory / "ks")
        self.directory.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # more than 10,000 steps, five minutes of a free core
@ON_BOTH
def test_whatever_people_do_the_keystore_does_what_the_model_does(
    filled_template: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "EVERY", 7)  # or no milestone would have anything behind it
    seen = Counter[str]()
    machine = type("MachineOfTemplate", (Machine,), {"template": filled_template, "seen": seen})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=MACHINES[database],
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    common = {"release", "used", "not-requester", "self-approval", "unknown-record", "lifetime"}
    common |= {"approvers", "enrolled", "unknown-key"}
    common |= {"release of own keys", "release of roles", "filed", "applied", "broken"}
    common |= {"reviewed", "release of broken glass", "denied under a policy that came back"}
    walked = {name for name, times in seen.items() if times}
    if database == "postgresql":  # of so few steps no single thing is sure
        assert walked & {"release", "applied"}, seen
    else:
        assert common <= walked, seen  # or the machine went nowhere
