"""The demo data that ship with the package."""
