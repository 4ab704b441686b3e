"""The drill: a workload under faults, and a check of every single job afterwards.

`log` writes down what will be enqueued before it is, and what has to become of it; `arena` has the servers and
the workers, each behind proxies (`proxy`) that can lose what goes through them; `faults` breaks things, one
way each, a few of them in workers that the drill's own `launcher` starts; `check` compares the log with the
database row by row; `run` puts them together, and `command` is `python -m lab drill`. Servers that the user
names come with `addresses`, and only after `guard` has asked. The service knows nothing of all this: there are no
hooks in its code.
"""
