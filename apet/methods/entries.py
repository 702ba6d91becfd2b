"""APET (Su et al. 2023, arXiv 2306.02320): k entries at any positions; `apet.methods.tuning` places them."""

from apet.methods.method import Method

# Fewer entries must move further. 10 k^-5/8 passes near the best rates found on the ladder: 1 of .3, 1, 3 at k = 64 and .3 of .3, 1 at
# k = 256 (both on mini-sentiment), and about .03 at k = 10,000 on SST-2.
APET = Method("apet", "APET", "o", lambda k: 10.0 * k**-0.625, low_precision=True)
