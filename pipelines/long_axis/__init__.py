"""Long-axis cine: chambers, valve annuli and apex on every phase."""
