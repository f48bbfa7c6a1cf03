"""Nouns: object types, states, defaults, validation, codec, errors, ownership. Pure."""
