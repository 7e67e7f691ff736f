"""A federation of one vector."""
