"""Calls of functions over HTTP: quartermaster's own, AWS's Invoke, function URLs, and asynchronous invocations."""
