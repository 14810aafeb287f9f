"""Requests, responses, image references, credentials and their validation."""
