"""Pseudonyms over HTTP, both ends: what a job's token of that role may ask for the subjects of its data set.

Secrets travel sealed to a key that the asking process made for the call, beside what TLS does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystore.crypto.hybrid import HybridPrivateKey, encrypt
from keystore.service.connection import ServiceUnavailable
from keystore.service.inbox_client import ServiceInbox
from keystore.service.messages import MAX_NAMED_SUBJECTS, NamedSubjects, SealedPseudonyms, Settled, Settling

if TYPE_CHECKING:  # who asks needs no database
    from keystore.vault.pseudonyms import PseudonymSecret

_INFO = b"keyanon pseudonyms v1\n"


def sealed(found: Mapping[str, PseudonymSecret], recipient: bytes, dataset: str) -> SealedPseudonyms:
    """What is answered. Raises InvalidRecordError for a malformed public key."""
    said = {subject: [base64.b64encode(one.secret).decode(), one.number] for subject, one in found.items()}
    return SealedPseudonyms(sealed=base64.b64encode(encrypt(json.dumps(said).encode(), recipient, _info(dataset))))


@dataclass(frozen=True)
class ServicePseudonyms:
    """The pseudonyms of a data set, as a run asks a served keystore for them.

    It travels to the workers as a `ServiceInbox` does, without the token. Calls raise KeystoreError.
    """

    url: str
    token_file: Path
    dataset: str

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        """Return secret and settled number of each subject; secrets are made at the first ask."""
        wanted, found = sorted(set(subjects)), dict[str, tuple[bytes, int | None]]()
        for first in range(0, len(wanted), MAX_NAMED_SUBJECTS):
            found |= self._some(wanted[first : first + MAX_NAMED_SUBJECTS])
        return found

    def settle(self, subject: str, number: int) -> int:
        """Settle a subject's carrier unless one is settled; return the number that holds."""
        body = Settling(subject=subject, number=number).model_dump(mode="json")
        path = "/v1/pseudonyms/settlement"
        return self._inbox.again(lambda service: service.ask(Settled, "POST", path, body)).number

    def _some(self, subjects: list[str]) -> dict[str, tuple[bytes, int | None]]:
        key = HybridPrivateKey.generate()
        recipient = base64.b64encode(key.public_bytes)
        body = NamedSubjects(subjects=subjects, recipient=recipient).model_dump(mode="json")
        answer = self._inbox.again(lambda service: service.ask(SealedPseudonyms, "POST", "/v1/pseudonyms", body))
        opened = key.open(answer.sealed, _info(self.dataset))
        said = {} if opened is None else json.loads(opened)
        if said.keys() != set(subjects):
            raise ServiceUnavailable(
                f"{self.url} answers with pseudonyms that were not asked for, or of another data set"
            )
        return {subject: (base64.b64decode(secret), number) for subject, (secret, number) in said.items()}

    @property
    def _inbox(self) -> ServiceInbox:
        return ServiceInbox(self.url, self.token_file)


def _info(dataset: str) -> bytes:
    return _INFO + dataset.encode()
