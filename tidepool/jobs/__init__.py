"""How a job is declared, and the outcomes it can have."""
