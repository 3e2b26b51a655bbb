"""Other programs' commands as jobs, and jobs as their commands: Megatron-LM's so far."""
