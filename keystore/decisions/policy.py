"""The policy: how many people must agree, how long a permission lives, how much one grant may open, how much must be said.

A validated model kept in the keystore; each change is in the audit log, and a request is bound to the policy it was made under.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from keystore.crypto.canonical import canonical_json, sha256_hex
from keystore.decisions.legal_bases import LEGAL_BASES, check_legal_basis
from keystore.errors import PolicyError

MIN_APPROVALS = 2  # one person alone never opens a key
DEFAULT_APPROVALS = 2
MAX_APPROVALS = 20
DEFAULT_MAX_LIFETIME_SECONDS = 7 * 24 * 3600
DEFAULT_GRANT_LIFETIME_SECONDS = 24 * 3600
MIN_GRANT_SECONDS = 60  # that an approver may choose
DEFAULT_MAX_IMAGES = 100
DEFAULT_PURPOSE_CHARACTERS = 8  # letters and digits
DEFAULT_LEGAL_BASIS_CHARACTERS = 4  # letters and digits: "GDPR", "BGB 5"
MIN_WORDS_CHARACTERS = 3  # no policy may accept less
MIN_DISTINCT_CHARACTERS = 3  # "aaaaaaaa" says nothing
MAX_TEXT_CHARACTERS = 4000
MAX_LIFETIME_CEILING_SECONDS = 366 * 24 * 3600
PERSON_PATTERN = r"^[0-9a-f]{64}$"  # a commitment
_SAID_WHERE_ASKED = ("own_keys", "roles", "break_glass", "legal_bases")  # what older versions did not know
ROLE_PATTERN = "^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"


class Policy(BaseModel):
    """The rules of one keystore. Fewer than two approvals can not be expressed.

    own_keys: only approvers who are enrolled approve, each with a key of their own. roles: of each at least one of them.
    break_glass: people (commitments) who may take out keys alone in an emergency (decisions.break_glass); nobody by default.
    legal_bases: codes that a request may name as its legal basis, and no other; none: those of decisions.legal_bases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    approvals: int = Field(default=DEFAULT_APPROVALS, ge=MIN_APPROVALS, le=MAX_APPROVALS)
    max_lifetime_seconds: int = Field(default=DEFAULT_MAX_LIFETIME_SECONDS, ge=1, le=MAX_LIFETIME_CEILING_SECONDS)
    grant_lifetime_seconds: int = Field(default=DEFAULT_GRANT_LIFETIME_SECONDS, ge=1, le=MAX_LIFETIME_CEILING_SECONDS)
    max_images: int = Field(default=DEFAULT_MAX_IMAGES, ge=1)
    min_purpose_characters: int = Field(default=DEFAULT_PURPOSE_CHARACTERS, ge=MIN_WORDS_CHARACTERS)
    min_legal_basis_characters: int = Field(default=DEFAULT_LEGAL_BASIS_CHARACTERS, ge=MIN_WORDS_CHARACTERS)

    own_keys: bool = False
    roles: tuple[Annotated[str, Field(pattern=ROLE_PATTERN)], ...] = ()
    break_glass: tuple[Annotated[str, Field(pattern=PERSON_PATTERN)], ...] = ()
    legal_bases: tuple[Annotated[str, Field(pattern=ROLE_PATTERN)], ...] = ()

    @model_validator(mode="after")
    def _people_are_named_once(self) -> Self:
        if list(self.break_glass) != sorted(set(self.break_glass)):
            raise ValueError("people who may break the glass are named once each, in order")
        return self

    @model_validator(mode="after")
    def _legal_bases_are_named_once(self) -> Self:
        if list(self.legal_bases) != sorted(set(self.legal_bases)):
            raise ValueError("legal bases are named once each, in order")
        return self

    @model_validator(mode="after")
    def _roles_can_be_present(self) -> Self:
        if list(self.roles) != sorted(set(self.roles)):
            raise ValueError("roles are named once each, in order")
        if self.roles and not self.own_keys:
            raise ValueError("roles are those of enrolled approvers: they need own_keys")
        if len(self.roles) > self.approvals:
            raise ValueError("an approver has one role: there can not be more of them than approvals")
        return self

    def content(self) -> dict[str, Any]:
        """Return the policy as JSON knows it; what older versions did not know is left out where it asks for nothing."""
        said = self.model_dump(mode="json")
        return {name: value for name, value in said.items() if name not in _SAID_WHERE_ASKED or value}

    def document(self) -> bytes:
        """Return the canonical bytes of the policy."""
        return canonical_json(self.content())

    def digest(self) -> str:
        """Return the SHA-256 of `document`, in hexadecimal."""
        return sha256_hex(self.document())

    def legal_bases_known(self) -> Mapping[str, str]:
        """Return codes that a request may name as its legal basis, each with what it says; "" of one that is the policy's own."""
        return {code: LEGAL_BASES.get(code, "") for code in self.legal_bases} or LEGAL_BASES

    def check_request(self, *, images: int, case: str, purpose: str, legal_basis: str, lifetime: timedelta) -> None:
        """Raise PolicyError when a request asks for more, or says less, than this policy allows."""
        if images == 0:
            raise PolicyError("images", "a request names no image; name at least one")
        if images > self.max_images:
            raise PolicyError(
                "images", f"a request names {images} images and the policy allows {self.max_images}; split it"
            )
        if lifetime <= timedelta(0):
            raise PolicyError("lifetime", "a request must expire in the future; give a positive duration")
        if lifetime > timedelta(seconds=self.max_lifetime_seconds):
            raise PolicyError(
                "lifetime",
                f"a request may live {timedelta(seconds=self.max_lifetime_seconds)} at most, not {lifetime}; ask for less",
            )
        _check_text("case", case, 1, distinct=1)
        _check_text("purpose", purpose, self.min_purpose_characters, distinct=MIN_DISTINCT_CHARACTERS)
        _check_text("legal_basis", legal_basis, self.min_legal_basis_characters, distinct=MIN_DISTINCT_CHARACTERS)
        check_legal_basis(legal_basis, self.legal_bases_known())


def _check_text(field: str, text: str, minimum: int, *, distinct: int) -> None:
    name = field.replace("_", " ")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise PolicyError(
            field, f"the {name} is longer than {MAX_TEXT_CHARACTERS} characters; refer to a document instead"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PolicyError(field, f"the {name} holds half of a character; write it again")
    significant = [character.casefold() for character in text if character.isalnum()]
    if len(significant) < minimum or len(set(significant)) < distinct:
        raise PolicyError(
            field, f"the {name} says too little: the policy asks for at least {minimum} letters or digits; write it out"
        )
