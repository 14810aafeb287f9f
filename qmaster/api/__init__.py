"""Tornado's routes and handlers: HTTP in, HTTP out."""
