"""Propose a source from real data: what a contract would say about the records of a file or a topic."""
