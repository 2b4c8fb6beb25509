"""Tells people of alarms, failed and declined studies, and numbers that they want to know of."""
