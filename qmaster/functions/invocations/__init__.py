"""What a call of a function is, whoever makes it: its answer, its function URL, its idempotency key and its numbers."""
