"""The views of runs, tasks and nodes, from what Docker lists: their statuses, their ends and their attempts. Pure."""
