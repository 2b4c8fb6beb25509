"""Synthetic late enhancement: what an image with contrast agent might have shown, made from cine alone."""
