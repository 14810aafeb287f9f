"""Named functions: what is published, what runs, and how it is called."""
