"""Alembic's environment: runs on the connection, and inside the transaction, that keystore.database hands over."""

from alembic import context

from keystore.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
