"""Running the dataflows of a warehouse: which tables, from where, under whose epoch."""
