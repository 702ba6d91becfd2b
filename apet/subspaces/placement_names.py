"""Names of units and orders, as users type them. The tables that implement them check that they define exactly these names."""

UNIT_NAMES = ("entry", "row", "column", "block", "tensor")
SCORE_NAMES = ("magnitude", "gradient", "fisher")  # these orders rank by a score of each entry
ORDER_NAMES = ("random", "layer", "kind", "reference", *SCORE_NAMES)
