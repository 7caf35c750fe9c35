"""The audit trail: an append-only Merkle log, its signed checkpoints, a witness, and a verifier that needs no key."""
