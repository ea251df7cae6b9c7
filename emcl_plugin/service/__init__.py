"""A fitted correction over HTTP."""
