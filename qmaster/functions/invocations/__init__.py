"""A call of a function, its function URL and its idempotency key; what makes the call is not known here."""
