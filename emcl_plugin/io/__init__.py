"""Files: reading arrays and writing results, one module per format."""
