"""The service's tables: one repository each, and their SQL."""
