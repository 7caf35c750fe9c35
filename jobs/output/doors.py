"""From where a run is told to hand its keys in to the door itself, looked at before anything is computed."""

from dataclasses import dataclass
from pathlib import Path

from jobs.errors import ConfigError
from jobs.output.inboxes import open_inbox
from jobs.output.ingest_keys import read_ingest_key
from jobs.output.keys import OutsideKeystore, alive
from jobs.storage.place import Place
from keystore.decisions.api_token import Role
from keystore.door import IngestDoor
from keystore.errors import StorageError
from keystore.intake.ingest_key import IngestKey
from keystore.service.inbox_client import ServiceInbox
from keystore.service.token_file import TokenFile


@dataclass(frozen=True)
class DoorName:
    """Where a run hands its keys in, as it was named; see `AnonymizeConfig` for the first four.

    dataset: that the keys are of. patience: see `OutsideKeystore`. role: that a token must have.
    """

    ingest_key: Place
    inbox: Place
    endpoint_url: str | None
    token_file: Path | None
    dataset: str
    patience: float
    role: Role = Role.INGEST

    def open(self) -> OutsideKeystore:
        """Look whether keys can be handed in there, as far as that shows before one is. Raises KeystoreError, ConfigError,
        MachineError."""
        if isinstance(self.inbox, Path) and not self.inbox.is_dir():
            raise StorageError(
                f"inbox {self.inbox} is no directory; make it where the keystore's ingest looks, or mend its name"
            )
        key = read_ingest_key(self.ingest_key, self.endpoint_url)
        inbox = open_inbox(self.inbox, self.endpoint_url, self.token_file)
        if isinstance(inbox, ServiceInbox):
            self._check_service(key, inbox)
        return OutsideKeystore(IngestDoor(key, inbox), self.patience)

    def _check_service(self, key: IngestKey, inbox: ServiceInbox) -> None:
        other = f"is of another keystore than the ingest key {self.ingest_key}, of {key.keystore_id}; give those of one keystore"
        if TokenFile.read(inbox.token_file).audit_vkey != key.audit_vkey:
            raise ConfigError(f"token file {inbox.token_file} {other}")  # the token is not sent
        with alive():
            me = inbox.me()
        if me.keystore != key.keystore_id:
            raise ConfigError(f"the service at {inbox} {other}")
        if (me.role, me.dataset) != (self.role, self.dataset):
            raise ConfigError(
                f"the token in {inbox.token_file} has the role {me.role.value} and the data set {me.dataset!r}, and this run "
                f"needs {self.role.value} for {self.dataset!r}; `keyanon keystore token issue --role {self.role.value} --dataset "
                "NAME` makes one"
            )
