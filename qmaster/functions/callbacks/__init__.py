"""Callbacks: which URLs may get one, and the queue that sends them and tries again."""
