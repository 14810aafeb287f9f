"""The commands for functions: publishing and listing them, calling them, and their asynchronous invocations."""
