"""How well the analyses do against references: the one room that imports analyses and their training alike."""
