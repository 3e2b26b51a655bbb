"""What ranks hold: shared memory, Megatron's models bound to it, and the proof of its bits."""
