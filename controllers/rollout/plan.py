"""What the rollout controller decides. Pure."""
