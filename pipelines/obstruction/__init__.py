"""Microvascular obstruction of an acute infarct, estimated from short-axis cine."""
