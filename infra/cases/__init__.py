"""A warehouse's own unit tests: given events, expected rows; offline, through the same stages, tables and views as a run."""
