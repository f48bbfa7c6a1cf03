"""The host daemon: starts and restarts the processes its host's role calls for, and keeps its identity."""

from shoal.machinery.lean import import_leanly

import_leanly()
