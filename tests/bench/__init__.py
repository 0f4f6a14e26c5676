"""Benchmarks: run by hand, never by the test command. Each prints what it measured and can write it as JSON."""
