"""Shards as tasks of Ray, on the nodes of a cluster."""
