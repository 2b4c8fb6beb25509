"""Acquired late enhancement: infarct and obstruction on the images themselves, their extent and depth."""
