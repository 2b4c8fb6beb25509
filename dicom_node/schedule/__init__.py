"""Scheduling: when a study is complete, and which of its series go to which route."""
