"""What every KEK says in the same words."""

from __future__ import annotations

from keystore.errors import TamperedError


def altered() -> TamperedError:
    """Return the error of a wrapped key that does not open."""
    return TamperedError(
        "a wrapped key in the database does not open under this keystore's KEK: the row was altered or moved; "
        "restore the database from a backup"
    )
