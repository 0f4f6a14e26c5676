"""The stack without Docker: every server as an own child process on loopback. For the demo, for `up` and for tests."""
