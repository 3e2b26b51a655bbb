"""Results as one HTML file, or as a table for a pull request."""
