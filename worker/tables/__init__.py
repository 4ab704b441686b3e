"""The tables of the service. Each has a module with its row class and with the repository that runs its SQL."""
