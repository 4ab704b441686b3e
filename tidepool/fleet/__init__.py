"""Divides PostgreSQL's connections among all worker processes, which together are called the *fleet*.

- `identity`  the ids of a worker process
- `budget`    how many of the server's connections this process may have
- `capacity`  reads how many connections the server has, and who uses them
"""
