"""A simulated scanner: hearts with known mechanics, imaged and written as scanners do."""
