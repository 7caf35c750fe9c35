"""An ingest key that is published at an address: fetched, and not believed. Whoever fetches holds it against a pin."""

from __future__ import annotations

import ssl

import httpx2

from keystore.errors import StorageError
from keystore.intake.ingest_key import MAX_FILE_BYTES
from keystore.service.bounded import TooLongError, ask
from keystore.service.connection import ServiceUnavailable
from keystore.service.endpoints import ENDPOINTS

INGEST_KEY_PATH = ENDPOINTS["ingest_key"].path
FETCH_SECONDS = 30.0
_PASSING = (408, 425, 429)  # and all from 500 on


def fetch_ingest_key(url: str) -> bytes:
    """Return what is published at an address, of the size of an ingest key at most; no token is sent, no redirect followed.

    Raises:
        ServiceUnavailable: it can not be reached, or not now. StorageError: it will be no otherwise the next time.
    """
    try:
        # create_default_context: SSL_CERT_FILE may tell of an authority of one's own
        answer = ask("GET", url, ssl.create_default_context(), MAX_FILE_BYTES, FETCH_SECONDS)
    except TooLongError:
        raise StorageError(
            f"{url} answers with more than {MAX_FILE_BYTES} bytes, which is no ingest key; mend the address"
        ) from None
    except httpx2.InvalidURL as error:
        raise StorageError(f"{url} is no address ({error})") from error
    except httpx2.HTTPError as error:
        if _is_distrust(error):
            raise StorageError(
                f"the certificate of {url} is not trusted here ({error}); for an authority of your own set SSL_CERT_FILE"
            ) from error
        raise ServiceUnavailable(
            f"the ingest key at {url} can not be reached ({type(error).__name__}: {error}); check the address and the network"
        ) from error
    if answer.status == 200:
        return answer.content
    if answer.status in _PASSING or answer.status >= 500:
        raise ServiceUnavailable(f"{url} answers {answer.status} and gives no ingest key now")
    if 300 <= answer.status < 400:
        raise StorageError(
            f"{url} sends elsewhere ({answer.status}), and a key is taken from nowhere else; give the address that has it"
        )
    raise StorageError(
        f"{url} answers {answer.status} and has no ingest key; a served keystore of this version has it at "
        f"https://HOST:PORT{INGEST_KEY_PATH}"
    )


def _is_distrust(error: BaseException | None) -> bool:
    """Whether an error comes of a certificate: it is no passing fault."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
