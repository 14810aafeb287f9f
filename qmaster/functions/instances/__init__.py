"""The warm instances of functions: when they start and end, and which of them gets a call."""
