"""Names of the operations (kinds of parameters that APET may tune), as users type them. The table of operations checks them."""

OPERATION_NAMES = ("add", "bias", "prefix", "prompt", "plug")
SIZE = 24  # width of a bottleneck of `plug` and of the method adapter, as in the paper
