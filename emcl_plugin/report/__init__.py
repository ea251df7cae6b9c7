"""Tables, plots and the page that explain a result."""
