"""Other programs' commands as jobs, and Megatron-LM's the other way: one file per dialect."""
