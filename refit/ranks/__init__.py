"""The processes of one point: an agent per node, its ranks, and the measurement in each."""
