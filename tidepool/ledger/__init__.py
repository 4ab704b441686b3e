"""From an attempt to the commit: intake, batches, and the ledger's transaction."""
