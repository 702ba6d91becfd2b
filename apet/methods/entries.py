"""APET (Su et al. 2023, arXiv 2306.02320): k entries at any positions. `apet.methods.tuning` places the entries."""

from apet.methods.method import Method

# Fewer entries must move further. The rate is near the best in `studies/rates.yaml`, and for a million entries near the rate of
# full fine-tuning. Three times as much keeps mini-bert from learning. The best rate also rises with the size of the model
# (`studies/rates-by-size.yaml`), but no rule is known beyond the ladder's sizes: hence `lr_factor`.
APET = Method("apet", "APET", "o", lambda k: 3.0 * k**-0.6, tunes="k entries at any positions", mergeable=True, low_precision=True)
