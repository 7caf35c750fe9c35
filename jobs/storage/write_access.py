"""Whether a place in a bucket may be written, asked without writing there.

A put is sent that can not succeed: its digest is not that of its content, and where the asker may read there too it shall replace
an object that nobody made. Who may not put is told so first (403); who may gets BadDigest (400) or PreconditionFailed (412). That
is seen of the server that the tests use; of Amazon's it is read in the API reference ("Error responses") and was not tried.
"""

import base64
import hashlib
import uuid
from typing import Any, Final

from jobs.errors import ConfigError
from jobs.storage.s3 import CredentialsError, S3Store
from jobs.storage.store import ChangedError

_OTHER_DIGEST: Final = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
_NO_VERSION: Final = f'"{"0" * 32}"'
_DIGEST_REFUSED: Final = frozenset({"BadDigest", "InvalidDigest"})


def may_put(store: S3Store, folder: str = "", *, readable: bool = True) -> bool | None:
    """Whether new objects may be put below a folder; None where the server's answer does not tell.

    readable: the asker may read there too; an inbox is not.

    Raises:
        ConfigError: the server took the object, which is removed again: it keeps neither digests nor conditions. OSError: there
        are no credentials that it takes, or no such bucket. MachineError: it can not be reached.
    """
    from botocore.exceptions import ClientError

    name = f"{folder}/plan-{uuid.uuid4().hex}".lstrip("/")
    # Amazon's asks for the right to read where IfMatch is given (User Guide, "Conditional requests").
    condition: Any = {"IfMatch": _NO_VERSION} if readable else {"IfNoneMatch": "*"}

    def put() -> object:
        return store.client.put_object(
            Bucket=store.bucket, Key=store.key(name), Body=b"", ContentMD5=_OTHER_DIGEST, **condition
        )

    try:
        store.call(name, put)
    except CredentialsError:
        raise
    except PermissionError:
        return False
    except (ChangedError, FileExistsError, FileNotFoundError):
        return True
    except OSError as error:
        if not isinstance(error.__cause__, ClientError) or error.__cause__.response["Error"]["Code"] == "NoSuchBucket":
            raise
        return True if error.__cause__.response["Error"]["Code"] in _DIGEST_REFUSED else None
    store.delete(name)
    raise ConfigError(
        f"{store}: the S3 server took an object with a wrong digest under a condition that can not hold; a run needs one that "
        "keeps conditions"
    )
