"""Alembic's environment: runs on the connection, and inside the transaction, that storage.database hands over."""

from alembic import context

from keystore.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
