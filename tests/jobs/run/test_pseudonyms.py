"""What a process asks of whoever keeps pseudonyms: little, and nothing that fails is a verdict on a row."""

import pickle
from collections.abc import Collection

import pytest

from jobs.errors import MachineError, PseudonymsRefusedError, UnansweredError
from jobs.faults import FaultKind, kind_of
from jobs.run.pseudonyms import REMEMBERED, AskedPseudonyms, ThrownAway
from keyanon_core.pseudonyms import MAX_CARRIERS, Pseudonym
from keystore.errors import ApprovalError, KeystoreError, StorageError
from keystore.keeper import KeeperDiedError
from keystore.vault import pseudonym_limits


class Door:
    """Keeps numbers by subject, and counts how often it is asked."""

    def __init__(self, **numbers: int | None) -> None:
        self.numbers, self.asked = numbers, list[list[str]]()
        self.error: KeystoreError | None = None

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        self.asked.append(list(subjects))
        if self.error is not None:
            raise self.error
        return {subject: (subject.encode().ljust(32), self.numbers.get(subject)) for subject in subjects}

    def settle(self, subject: str, number: int) -> int:
        if self.error is not None:
            raise self.error
        return self.numbers.setdefault(subject, number) or 0


def test_a_block_is_one_call_and_a_settled_subject_is_not_asked_for_again() -> None:
    door = Door(ada=3)
    asked = AskedPseudonyms(door)
    asked.expect({"ada", "bob"})
    assert (asked.of("ada"), asked.of("bob")) == (Pseudonym(b"ada".ljust(32), 3), Pseudonym(b"bob".ljust(32), None))
    door.numbers["bob"] = 5  # another process settled it meanwhile
    asked.expect({"ada", "bob"})
    assert door.asked == [["ada", "bob"], ["bob"]] and asked.of("bob").number == 5
    asked.expect({"eve"})
    assert asked.settle("eve", 7) == 7 == asked.of("eve").number
    asked.expect({"eve", "bob"})
    assert door.asked[2:] == [["eve"]]


def test_what_is_remembered_has_a_bound_and_the_block_in_hand_is_all_there() -> None:
    many = [f"{at:05d}" for at in range(REMEMBERED + 5)]
    door = Door(**dict.fromkeys(many, 0))
    asked = AskedPseudonyms(door)
    asked.expect(many)
    assert all(asked.of(subject).number == 0 for subject in many)
    asked.expect(["other"])
    asked.expect([*many[:5], many[-1]])
    assert door.asked == [many, ["other"], many[:5]]


@pytest.mark.parametrize(
    ("met", "raised", "kind"),
    [
        (KeeperDiedError("it ended"), UnansweredError, FaultKind.MACHINE),
        (ApprovalError("token", "revoked"), PseudonymsRefusedError, FaultKind.RUN),
        (StorageError("the token file is open to others"), PseudonymsRefusedError, FaultKind.RUN),
    ],
)
def test_no_answer_is_of_the_machine_and_a_refusal_of_the_run(
    met: KeystoreError, raised: type[Exception], kind: FaultKind
) -> None:
    door = Door()
    asked = AskedPseudonyms(door)
    asked.expect(["ada"])
    door.error = met
    for call in (lambda: asked.expect(["bob"]), lambda: asked.settle("ada", 1)):
        with pytest.raises(raised, match=str(met)) as caught:
            call()
        assert kind_of(caught.value) is kind and isinstance(caught.value, MachineError) == (kind is FaultKind.MACHINE)


def test_secrets_do_not_travel_and_those_of_a_sample_are_each_processs_own() -> None:
    door = ThrownAway()
    asked = AskedPseudonyms(door)
    asked.expect(["ada"])
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(asked)
    there = pickle.loads(pickle.dumps(door))
    assert there.secrets(["ada"])["ada"][0] != asked.of("ada").secret
    assert (there.settle("ada", 4), there.secrets(["ada"])["ada"][1], door.secrets(["ada"])["ada"][1]) == (4, 4, None)


def test_both_houses_number_as_many_carriers() -> None:
    assert MAX_CARRIERS == pseudonym_limits.MAX_CARRIERS
