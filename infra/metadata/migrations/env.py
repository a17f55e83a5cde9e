"""Alembic's environment: it runs on the connection that infra.metadata.schema passes, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table_schema="kappa")
context.run_migrations()
