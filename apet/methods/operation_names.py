"""Names of the operations (kinds of parameters that APET may tune), as users type them. The table of operations checks them."""

OPERATION_NAMES = ("add", "bias", "prefix", "prompt", "plug")
