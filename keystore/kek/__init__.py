"""The key-encryption key: one interface, one module for each scheme it may live behind."""
