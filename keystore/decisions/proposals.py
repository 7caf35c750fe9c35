"""What people ask to be changed of who decides, in their words: names and lines of keys, which changes.py knows as commitments.

The same whether they are at the keystore's machine or send it to the service.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keystore.decisions.policy import Policy
from keystore.errors import PolicyError

MAX_NAME_CHARACTERS = 1000
MAX_LINE_CHARACTERS = 8000  # of a public line; a passkey's holds what it signed
MAX_NAMED = 100  # people who may break the glass
NO_POLICY = "no-policy"  # code of a proposal that no policy can be as
Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]


class _Proposal(BaseModel):
    """Base: nothing is in it that is not declared, and no error quotes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PolicyProposal(_Proposal):
    """Another policy: what is None stays as it is. break_glass: names of those who may; nobody: it is off.
    legal_bases: codes; none: those that keyanon comes with."""

    kind: Literal["policy"] = "policy"
    approvals: int | None = None
    own_keys: bool | None = None
    roles: list[Name] | None = Field(default=None, max_length=MAX_NAMED)
    max_lifetime_seconds: int | None = None
    grant_lifetime_seconds: int | None = None
    max_images: int | None = None
    break_glass: list[Name] | None = Field(default=None, max_length=MAX_NAMED)
    legal_bases: list[Name] | None = Field(default=None, max_length=MAX_NAMED)

    def of(self, policy: Policy, person_of: Callable[[str], str]) -> Policy:
        """Return the policy that `policy` is to become. person_of: the commitment of a name. Raises PolicyError: it is none."""
        asked = self.model_dump(exclude={"kind", "roles", "break_glass", "legal_bases"}, exclude_none=True)
        if self.roles is not None:
            asked["roles"] = tuple(sorted(set(self.roles)))
        if self.legal_bases is not None:
            asked["legal_bases"] = tuple(sorted(set(self.legal_bases)))
        if self.break_glass is not None:
            asked["break_glass"] = tuple(sorted({person_of(name) for name in self.break_glass}))
        try:
            return Policy.model_validate(policy.model_dump() | asked)
        except ValidationError as error:
            problem = error.errors()[0]
            raise PolicyError(NO_POLICY, " ".join((*map(str, problem["loc"]), problem["msg"]))) from None


class Enrolment(_Proposal):
    """A key goes on the list. public_line: as the approver's own machine, or the console, showed it."""

    kind: Literal["enrol-approver"] = "enrol-approver"
    approver: Name
    role: str = Field(max_length=MAX_NAME_CHARACTERS)
    public_line: str = Field(max_length=MAX_LINE_CHARACTERS)


class Removal(_Proposal):
    """A key goes off the list. key: its id."""

    kind: Literal["remove-approver"] = "remove-approver"
    key: str = Field(max_length=MAX_NAME_CHARACTERS)


class Replacement(_Proposal):
    """A key goes on the list in the place of `key`, of its person, in their role."""

    kind: Literal["replace-approver"] = "replace-approver"
    key: str = Field(max_length=MAX_NAME_CHARACTERS)
    public_line: str = Field(max_length=MAX_LINE_CHARACTERS)


class Review(_Proposal):
    """A break of the glass was looked into. request: that broke it."""

    kind: Literal["review"] = "review"
    request: str = Field(max_length=MAX_NAME_CHARACTERS)


Proposal = Annotated[PolicyProposal | Enrolment | Removal | Replacement | Review, Field(discriminator="kind")]
