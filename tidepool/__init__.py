"""Runs arq jobs on PostgreSQL with exactly-once effects, in batches, on a connection pool that explains itself."""
