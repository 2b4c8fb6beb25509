"""Risk of adverse remodelling after an acute infarct, from cine: images, morphology and motion."""
