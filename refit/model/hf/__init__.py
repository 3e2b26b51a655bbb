"""Hugging Face's config.json -> fields of `Model`: one reader per model_type, no transformers."""
