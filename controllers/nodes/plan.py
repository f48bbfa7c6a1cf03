"""What the nodes controller decides. Pure."""
