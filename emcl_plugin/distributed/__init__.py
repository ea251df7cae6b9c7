"""Distributed runs: one correction on several processes."""
