"""Bytes that mean one thing: canonical JSON, the committing envelope, hybrid public-key encryption. Knows no database."""
