"""What is published: the versions of functions, in configs of the swarm."""
