"""Which recipe for which machine, task and need."""
