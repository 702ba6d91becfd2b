"""What users type for the choice of entries. The tables that give these names their meaning check that they have the same."""

UNIT_NAMES = ("entry", "row", "column", "block", "tensor")
SCORE_NAMES = ("magnitude", "gradient", "fisher")  # orders by a score of single entries
ORDER_NAMES = ("random", "layer", "kind", "reference", *SCORE_NAMES)
