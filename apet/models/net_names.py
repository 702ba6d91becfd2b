"""Networks that have no trained weights: their names, which the table of networks checks."""

NET_NAMES = ("mnist-fc", "mnist-lenet")
