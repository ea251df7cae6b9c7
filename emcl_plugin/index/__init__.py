"""A fitted correction in vector stores."""
