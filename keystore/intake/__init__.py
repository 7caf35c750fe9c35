"""From a worker to the vault: key records, their sealing, the inbox, and ingest."""
