"""What makes a job impossible, which method can run where, and the machine's devices; no torch."""
