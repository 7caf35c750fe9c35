"""An object of any size, sent to a bucket in parts as it is written (Amazon S3 User Guide, "Multipart upload")."""

import contextlib
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import MachineError

if TYPE_CHECKING:
    from jobs.storage.s3 import S3Store

PART_BYTES: Final = 16 * 1024 * 1024
PARTS_OF_A_SIZE: Final = 1000  # before the next ones are twice as large: 10,000 are allowed, and 5 TiB


class Upload:
    """A file to write to, for `tarfile` and the like. Nobody sees the object before `finish`, which makes it if it is absent.

    A process that dies leaves parts that nobody sees: a rule of the bucket's removes them.
    """

    def __init__(self, store: "S3Store", name: str) -> None:
        self._store, self.name = store, name
        self._waiting, self._written = bytearray(), 0
        self._parts: list[dict[str, Any]] = []
        self._upload: str | None = None

    def write(self, data: bytes) -> int:
        self._waiting += data
        self._written += len(data)
        while len(self._waiting) >= (size := PART_BYTES << len(self._parts) // PARTS_OF_A_SIZE):
            self._send(bytes(self._waiting[:size]))
            del self._waiting[:size]
        return len(data)

    def tell(self) -> int:
        return self._written

    def finish(self) -> None:
        """Make the object. Raises FileExistsError, OSError, MachineError."""
        if self._upload is None:
            self._store.create(self.name, bytes(self._waiting))
            return
        if self._waiting:
            self._send(bytes(self._waiting))
        self._request(
            "complete_multipart_upload", UploadId=self._upload, MultipartUpload={"Parts": self._parts}, IfNoneMatch="*"
        )

    def abort(self) -> None:
        """Give the parts up, as far as that goes."""
        if self._upload is not None:
            with contextlib.suppress(OSError, MachineError):
                self._request("abort_multipart_upload", UploadId=self._upload)

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            self._upload = self._request("create_multipart_upload")["UploadId"]
        number = len(self._parts) + 1
        tag = self._request("upload_part", UploadId=self._upload, PartNumber=number, Body=part)["ETag"]
        self._parts.append({"PartNumber": number, "ETag": tag})

    def _request(self, operation: str, **arguments: Any) -> Any:
        request = getattr(self._store.client, operation)
        return self._store.call(
            self.name, lambda: request(Bucket=self._store.bucket, Key=self._store.key(self.name), **arguments)
        )
