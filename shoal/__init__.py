"""Shoal: services on many Docker hosts, reconciled from objects in etcd."""
