"""Ventricular function from short-axis cine: the package, and the steps that lead to it."""
