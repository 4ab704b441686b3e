"""The operators' commands.

- `main`      their parser
- `terminal`  what they share: exit status, tables or JSON, errors as one line
- `pool`, `advice`, `jobs`  the larger ones
"""
