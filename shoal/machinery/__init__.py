"""Verbs: store, etcd adapter, watch, informer, work queue, runner, election, clock, test kit."""
