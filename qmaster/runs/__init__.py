"""The life of a run: start, watch, stop, time out, keep its result and its log."""
