"""Training the same network with different losses, and what came of it."""
