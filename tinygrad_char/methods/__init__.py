"""The methods of Tensor by kind, as `ops` has their operations."""
