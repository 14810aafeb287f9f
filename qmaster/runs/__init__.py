"""Runs: start, status, stop, timeout, results and logs."""
