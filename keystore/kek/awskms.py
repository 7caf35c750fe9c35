"""A KEK in the AWS Key Management Service, `awskms:KEY` (an id, an ARN or `alias/NAME`): a symmetric key that never leaves it.

Credentials, region and endpoint come from the usual AWS settings. The encryption context is the members of ours: keystore, kind,
name, type. AWS writes it into its own log, and a policy can hold an account to it (`kms:EncryptionContext:kind`). KMS rotates
what lies behind a key by itself and opens what older versions wrapped; it can not destroy one version alone: an erasure destroys
the wrapped form of the epoch key in our database.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from keystore.errors import KekError
from keystore.kek.refusals import altered

SCHEME: Final = "awskms:"
_ALTERED: Final = {"InvalidCiphertextException", "IncorrectKeyException"}


class KmsKek:
    """A KEK that AWS keeps."""

    def __init__(self, uri: str, client: Any = None) -> None:
        """client: of boto3, for tests. Raises KekError: no such key, no permission, or one that is not for encrypting."""
        self.uri, self._name = uri, uri.removeprefix(SCHEME)
        if not self._name:
            raise KekError("KEK awskms: names no key; give awskms:alias/NAME, an id or an ARN")
        self._client = client or _client(uri)
        key = self._asked("describe_key", KeyId=self._name)["KeyMetadata"]
        if (key.get("KeyUsage"), key.get("KeySpec"), key.get("Enabled")) != (
            "ENCRYPT_DECRYPT",
            "SYMMETRIC_DEFAULT",
            True,
        ):
            raise KekError(f"the key of KEK {uri} is not an enabled symmetric key for encryption")
        self._arn = str(key["Arn"])  # an alias may be pointed elsewhere while this is open
        self.kek_id = f"awskms-{hashlib.sha256(self._arn.encode()).hexdigest()[:32]}"

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        answer = self._asked("encrypt", KeyId=self._arn, Plaintext=secret, EncryptionContext=_context(context))
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        answer = self._asked("decrypt", KeyId=self._arn, CiphertextBlob=wrapped, EncryptionContext=_context(context))
        return bytes(answer["Plaintext"])

    def _asked(self, call: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, call)(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if call == "decrypt" and code in _ALTERED:
                raise altered() from None
            raise KekError(
                f"AWS KMS refuses {call} with KEK {self.uri} ({code}); check the key and this account's rights"
            ) from None
        except BotoCoreError as error:
            raise KekError(f"AWS KMS does not answer for KEK {self.uri} ({type(error).__name__}); try again") from None

    def __repr__(self) -> str:
        return f"KmsKek({self.uri!r}, {self.kek_id})"


def open_kek(uri: str) -> KmsKek:
    """Open a KEK that is there. Raises KekError."""
    return KmsKek(uri)


def create_kek(uri: str) -> bool:
    """Keys are made in AWS by whoever may (`infra/terraform`): look for this one, and make none. Raises KekError."""
    KmsKek(uri)
    return False


def _client(uri: str) -> Any:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client("kms")
    except BotoCoreError as error:
        raise KekError(f"KEK {uri} can not be asked for: {error}") from None


def _context(context: bytes) -> dict[str, str]:
    members: dict[str, str] = json.loads(context)
    return members
