"""The mathematics on raw arrays: forward and backward of each operation."""
