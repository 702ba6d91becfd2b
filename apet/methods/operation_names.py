"""What users type for the parameters that APET may tune. The table of operations checks that it has the same names."""

OPERATION_NAMES = ("add", "bias", "prefix", "prompt", "plug")
