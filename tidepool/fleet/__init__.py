"""The worker processes as a group.

- `identity`  the name of a process
- `budget`    how many of the server's connections this process may have; `capacity` reads how many there are
"""
