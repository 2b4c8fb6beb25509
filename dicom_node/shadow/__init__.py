"""Shadow: predicted late enhancement held against acquired late enhancement of the same study, at this site."""
