"""The schedules of functions: each tick is claimed in the swarm, then called asynchronously."""
