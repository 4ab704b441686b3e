"""The worker processes as a group: who they are, and how many connections each may have."""
