"""A caller's connection to the service: one call and its answer; what goes wrong, as the errors that the keystore raises."""

from __future__ import annotations

import ssl
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from keystore import errors
from keystore.errors import ApprovalError, KeystoreError, PassingError, RequestNotFound, StorageError
from keystore.service.loopback import is_loopback
from keystore.service.messages import Problem
from keystore.service.token_file import TokenFile

TIMEOUT_SECONDS = 60.0
Answer = TypeVar("Answer", bound=BaseModel)


class ServiceUnavailable(PassingError):
    """The service can not be reached, or says that it can not do this now; the same command may be run again."""


class CallRefused(StorageError):
    """The service does not take a call as it is. code: why, for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyCalls(ApprovalError):
    """The token called too often. wait: seconds after which it may go on."""

    def __init__(self, code: str, message: str, wait: float) -> None:
        super().__init__(code, message)
        self.wait = wait


def check_address(url: str) -> str:
    """Return the address of a service without a slash at its end. Raises StorageError: others could read what is sent there."""
    try:
        at = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise StorageError(f"{url} is no https:// address ({error})") from error
    if at.scheme != "https" and not (at.scheme == "http" and is_loopback(at.host)):
        raise StorageError(f"{url} is no https:// address; a token is not sent where others could read it")
    return url.rstrip("/")


class Connection:
    """To one service, with one token. Threads may share it; `close` it."""

    def __init__(self, url: str, known_by: TokenFile) -> None:
        """`url`: https://host[:port]; plain http only to this machine. Raises StorageError for another."""
        self.url = check_address(url)
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {known_by.token}"},
            timeout=TIMEOUT_SECONDS,
            verify=ssl.create_default_context(),  # which SSL_CERT_FILE may tell of an authority of one's own
            follow_redirects=False,  # the token is for this service
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def ask(self, kind: type[Answer], method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Call, and return the answer as a message. Raises KeystoreError."""
        answer = self.call(method, path, json=body, **more)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServiceUnavailable(
                f"what {self.url} answers is not what this version of keyanon understands"
            ) from error

    def call(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Call, and return the answer; `more`: as httpx2 has it. Raises KeystoreError."""
        try:
            answer = self._http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise ServiceUnavailable(
                f"the keystore at {self.url} can not be reached ({type(error).__name__}: {error}); check the address, the "
                "network, and for an authority of your own SSL_CERT_FILE"
            ) from error
        if answer.is_success:
            return answer
        raise self._error(answer)

    def _error(self, answer: httpx2.Response) -> KeystoreError:
        try:
            said = Problem.model_validate_json(answer.content)
        except ValidationError:
            return ServiceUnavailable(f"{self.url} answers {answer.status_code}, and not as a keystore does")
        detail = f"{self.url}: {said.detail}"
        if answer.status_code == 503:
            return ServiceUnavailable(detail)
        if answer.status_code == 404:
            return RequestNotFound("not-found", f"{detail}; its role or data set may not reach it")
        if answer.status_code == 429:
            wait = answer.headers.get("retry-after", "")
            seconds = float(wait) if wait.isdecimal() else 0.0
            return TooManyCalls(said.code, detail + (f" ({wait} s)" if wait else ""), seconds)
        if answer.status_code == 401:
            return ApprovalError(said.code, detail)
        if said.error == "CallError":
            return CallRefused(said.code, detail)
        return errors.named(said.error, said.code, said.detail)
