"""Checks that need a GPU: run by hand, `python -m tests.gpu.NAME`, never by the test command. Each exits with 1 when
something is not as it should be."""
