"""The `shoal` command: what people type. Modules are imported only when their command is run."""
