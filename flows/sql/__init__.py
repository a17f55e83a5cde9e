"""The user's SQL: parsed by DuckDB, checked, bound against the contracts, and rewritten so that every row keeps its position."""
