"""Asynchronous invocations: kept in the journal, attempted until one succeeds, and reported."""
