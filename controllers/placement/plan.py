"""What the placement controller decides. Pure."""
