"""Hollow nodes: real agents over mutual TLS on engines in memory, many in a process. See docs/hollow.md."""
