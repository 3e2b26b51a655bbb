"""mode=plan: what a refit will cost, from its plan and the cluster's stated rates. No torch."""
