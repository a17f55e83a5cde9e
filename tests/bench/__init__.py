"""Benchmarks: what exactly-once costs, and what Arrow batches gain. ``python -m tests.bench``; docs/benchmarks.md says what is measured."""
