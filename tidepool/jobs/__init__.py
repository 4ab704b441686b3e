"""How a job is declared (`job`, `command`), what its id may be (`ids`), and the outcomes it can have (`outcomes`)."""
