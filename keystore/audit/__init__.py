"""The audit trail as it is written: an append-only Merkle log, its signed checkpoints, a witness."""
