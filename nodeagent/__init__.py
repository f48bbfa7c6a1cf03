"""The agent of a node, and its name service."""

from shoal.machinery.lean import import_leanly

import_leanly()
