"""What is written down of a point, where, and how a measurement becomes it. No torch."""
