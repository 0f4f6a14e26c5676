"""The tables, the job state machine and the queue contract. Knows SQL; knows nothing of HTTP, tensors or files."""
