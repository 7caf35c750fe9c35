"""What an auditor runs: the log replayed and held against the tables. Needs no private key."""
