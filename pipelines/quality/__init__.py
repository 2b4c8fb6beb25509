"""Quality of a cine and of what was measured on it, as data: every finding has a grade and a sentence."""
