"""Names of the networks without trained weights. `apet.models.mnist_nets` checks that they match its table."""

NET_NAMES = ("mnist-fc", "mnist-lenet")
