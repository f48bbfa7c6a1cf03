"""What the endpoint controller decides. Pure."""
