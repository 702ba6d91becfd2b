"""Names of subspaces, as users type them. The table of projections checks that it defines exactly these names."""

SUBSPACE_NAMES = ("coordinates", "fastfood", "fastfood-tensor", "fastfood-legacy", "said", "countsketch", "gaussian")
