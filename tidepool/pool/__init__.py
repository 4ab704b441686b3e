"""The connection pool of a process: fair gate, checkout, connections, figures, and PostgreSQL's errors."""
