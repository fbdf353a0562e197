"""Character-level language models and what one does with them."""
