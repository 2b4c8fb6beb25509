"""Execution: worker processes, and what they do with a job."""
