"""What the replication controller decides. Pure."""
