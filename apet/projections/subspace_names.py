"""What users type for a subspace. The table of projections checks that it has the same names."""

SUBSPACE_NAMES = ("coordinates", "fastfood", "fastfood-tensor", "fastfood-legacy", "said", "countsketch", "gaussian")
