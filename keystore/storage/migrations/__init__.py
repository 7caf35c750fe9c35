"""The alembic migrations of the keystore; they run when a keystore is created or opened."""
