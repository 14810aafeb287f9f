"""Named functions: their versions, their warm instances, and the calls of them."""
