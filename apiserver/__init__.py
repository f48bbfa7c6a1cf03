"""The API server: the only door to the store for people, Docker clients and agents."""

from shoal.machinery.lean import import_leanly

import_leanly()
