"""Where an output lies: a local directory or a prefix of a bucket, behind the few calls that the rest needs."""
