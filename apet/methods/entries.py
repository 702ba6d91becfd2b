"""APET (Su et al. 2023, arXiv 2306.02320): k entries at any positions. `apet.methods.tuning` places the entries."""

from apet.methods.method import Method

# Fewer entries must move further. 10 k^-5/8 is close to the best rates on the ladder: 1 at k = 64 (of .3, 1 and 3) and .3 at k = 256
# (of .3 and 1), both on mini-sentiment, and about .03 at k = 10,000 on SST-2.
APET = Method("apet", "APET", "o", lambda k: 10.0 * k**-0.625, tunes="k entries at any positions", mergeable=True, low_precision=True)
