"""How far a correction can be trusted without labels."""
