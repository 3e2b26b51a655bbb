"""A model's architecture -> its tensors by Megatron's names, with sizes and counts. No torch."""
