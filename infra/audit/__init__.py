"""The proof that every table holds what its topic says (DESIGN invariant I3)."""
