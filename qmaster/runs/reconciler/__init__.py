"""The reconciler: it lists what runs, compares that with its cache, and publishes the changes."""
