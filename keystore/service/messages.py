"""What travels between the service and its callers, as pydantic models; the OpenAPI document is made of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints

from keystore.decisions.api_token import Role, TokenView
from keystore.decisions.legal_bases import LEGAL_BASES
from keystore.decisions.passkeys import Assertion
from keystore.decisions.policy import MAX_LIFETIME_CEILING_SECONDS, MAX_TEXT_CHARACTERS, MIN_GRANT_SECONDS, Policy
from keystore.decisions.proposals import Proposal
from keystore.decisions.signatures import OwnSignature
from keystore.decisions.views import ApproverView, RequestView, View
from keystore.intake.records import Sha256Hex
from keystore.reporting.controller import Controller
from keystore.vault.pseudonym_limits import MAX_SUBJECT_CHARACTERS

MAX_CHECKPOINTS = 16  # that one report is held against
MAX_IMAGES = 1000  # named in one request; the policy allows fewer
MAX_NAME_CHARACTERS = 1000
MAX_SHARD_NAME_CHARACTERS = 200
MAX_NAMED_SHARDS = 500  # in one call
MAX_NAMED_SUBJECTS = 100  # in one call
EXISTS = "exists"  # the code of a shard that was not put, for another one of its name lies there
DIGEST_PATTERN = "^[0-9a-f]{64}$"
MAX_PUBLIC_KEY_CHARACTERS = 4000
MAX_SIGNATURE_CHARACTERS = 200
MAX_TIME_CHARACTERS = 40
MAX_CODE_CHARACTERS = 4000
CHALLENGE_PATTERN = "^[A-Za-z0-9_-]{43}$"  # RFC 7636: SHA-256 in base64
VERIFIER_PATTERN = "^[A-Za-z0-9._~-]{43,128}$"
STATE_PATTERN = "^[A-Za-z0-9_-]{22,128}$"
MAX_ASSERTION_CHARACTERS = 6000  # of each of its parts, base64


_LEGAL_BASIS = (
    "`CODE`, or `CODE: the law or order`; CODE is one of `legal_bases` of the policy, where it names none of: "
    + ", ".join(sorted(LEGAL_BASES))
)

Subject = Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_CHARACTERS)]


class Message(BaseModel):
    """Base of what a caller sends: nothing is in it that is not declared, and no error quotes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Problem(BaseModel):
    """Why something was not done. `error` is a name of keystore.errors where the keystore said it."""

    error: str
    code: str
    detail: str


class Breaking(Message):
    """What is asked for in an emergency, and why: it is granted at once, for an hour."""

    images: list[str] = Field(min_length=1, max_length=MAX_IMAGES)
    case: str = Field(max_length=MAX_TEXT_CHARACTERS, repr=False)
    purpose: str = Field(max_length=MAX_TEXT_CHARACTERS, repr=False)
    legal_basis: str = Field(max_length=MAX_TEXT_CHARACTERS, repr=False, description=_LEGAL_BASIS)
    dataset: str | None = Field(default=None, max_length=MAX_NAME_CHARACTERS)


class Filing(Breaking):
    """A request as it is filed. lifetime_seconds: how long it stands."""

    lifetime_seconds: int = Field(ge=1, le=MAX_LIFETIME_CEILING_SECONDS)


class FiledChange(Message):
    """A change of who decides, as it is filed."""

    change: Proposal


class PolicyView(View):
    """The present policy, in full as `decisions.policy` names it, and its digest."""

    policy: Policy
    digest: str


class ApproverList(View):
    """All keys that were ever enrolled, newest first."""

    approvers: list[ApproverView]


class Comparing(Message):
    """SHA-256 of published pictures by the ids of their records."""

    digests: dict[Annotated[str, StringConstraints(max_length=64)], Sha256Hex] = Field(max_length=MAX_IMAGES)


class Compared(BaseModel):
    """Why pictures are not those of a request's records, by record id; "" of each that is."""

    problems: dict[str, str]


class PictureDigests(View):
    """SHA-256, in hex, of the files published with a request's records, by record id; None where there is none."""

    digests: dict[str, str | None]


class RequestShards(View):
    """Names of the shards that a request's records came in; to a recovery none, unless there is a grant that can be used."""

    shards: list[str]


class Reporting(Message):
    """What a report is made with. checkpoints, quorum: as of `verify_audit`; controller: what only they know."""

    checkpoints: list[str] = Field(default_factory=list, max_length=MAX_CHECKPOINTS)
    quorum: int | None = Field(default=None, ge=1, le=MAX_CHECKPOINTS)
    controller: Controller = Controller()


class Asserted(Message):
    """What a passkey signed beside the approval (decisions.passkeys)."""

    authenticator_data: Base64Bytes = Field(max_length=MAX_ASSERTION_CHARACTERS)
    client_data: Base64Bytes = Field(max_length=MAX_ASSERTION_CHARACTERS)


class Signed(Message):
    """A signature that an approver made with their own key (decisions.signatures). approved_at: by their clock."""

    key: str = Field(pattern=DIGEST_PATTERN)
    approved_at: str = Field(max_length=MAX_TIME_CHARACTERS)
    signature: Base64Bytes = Field(max_length=MAX_SIGNATURE_CHARACTERS)
    assertion: Asserted | None = None

    def own(self) -> OwnSignature:
        """Return it as the keystore knows it."""
        assertion = self.assertion
        of_passkey = None if assertion is None else Assertion(assertion.authenticator_data, assertion.client_data)
        return OwnSignature(self.key, self.approved_at, self.signature, of_passkey)


class Approving(Message):
    """What is agreed to: the digest that was shown; signed, where the approver has a key of their own.

    grant_seconds: how long the grant may live, where that is to be less than the policy allows; signed too.
    """

    digest: str = Field(pattern=DIGEST_PATTERN)
    signed: Signed | None = None
    grant_seconds: int | None = Field(default=None, ge=MIN_GRANT_SECONDS, le=MAX_LIFETIME_CEILING_SECONDS)


class Presenting(Message):
    """Whom the keys are sealed to: an X-Wing public key, 1,216 bytes in base64, made for this one release."""

    recipient: Base64Bytes = Field(max_length=MAX_PUBLIC_KEY_CHARACTERS)


class SeenRequest(RequestView):
    """A request as its requester, its job and approvers see it. count: of its images."""

    count: int


class RequestList(View):
    """Requests, newest first."""

    requests: list[SeenRequest]


class Me(View):
    """Whom the service takes the caller for, and the keystore's verifier key."""

    keystore: str
    audit_vkey: str
    token_id: str
    person: str
    role: Role
    dataset: str | None


class Redeeming(Message):
    """What a command presents for its token: the code that its browser brought, and the verifier that only it has (RFC 7636)."""

    code: str = Field(max_length=MAX_CODE_CHARACTERS, repr=False)
    verifier: str = Field(pattern=VERIFIER_PATTERN, repr=False)


class SignedIn(View):
    """A token for who signed in, and the keystore's verifier key."""

    token: str = Field(repr=False)
    audit_vkey: str


class InboxList(View):
    """Shards of one run: not taken in yet, and taken in."""

    waiting: list[str]
    receipts: list[str]


class NamedShards(Message):
    """Shards of one run."""

    shards: list[Annotated[str, Field(max_length=MAX_SHARD_NAME_CHARACTERS)]] = Field(
        min_length=1, max_length=MAX_NAMED_SHARDS
    )


class NamedSubjects(Message):
    """Subjects of the token's data set, and the X-Wing public key that their pseudonyms are sealed to."""

    subjects: list[Subject] = Field(min_length=1, max_length=MAX_NAMED_SUBJECTS, repr=False)
    recipient: Base64Bytes = Field(max_length=MAX_PUBLIC_KEY_CHARACTERS)


class SealedPseudonyms(View):
    """Sealed to the recipient: for each subject its secret in base64, and the number of the carrier that holds, as JSON."""

    sealed: Base64Bytes


class Settling(Message):
    """Which of a subject's carriers is to hold."""

    subject: Subject = Field(repr=False)
    number: int


class Settled(View):
    """Which of a subject's carriers holds."""

    number: int


class FoundReceipt(View):
    """A receipt: the file's bytes, in base64."""

    shard: str
    receipt: Base64Bytes


class ReceiptPage(View):
    """Receipts of the first `answered` shards that were named, of those that have one; the others are asked for again."""

    answered: int
    receipts: list[FoundReceipt]


class LogPage(View):
    """Leaves of the log in base64, from `start` on, and how many there are in all."""

    start: int
    size: int
    leaves: list[str]


class Proof(View):
    """Hashes in base64, and the signed checkpoint that they lead to."""

    checkpoint: str
    hashes: list[str]


class TokenList(View):
    """All tokens that were issued, newest first."""

    tokens: list[TokenView]


class Health(View):
    """What a prober learns."""

    status: str
    checked_at: datetime
