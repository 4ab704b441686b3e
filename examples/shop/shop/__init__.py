"""A small shop whose background jobs run on arq: orders, charges and receipts."""
