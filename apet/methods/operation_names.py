"""What users type for the parameters that APET may tune. The table of operations checks that it has the same names."""

OPERATION_NAMES = ("add", "bias", "prefix", "prompt", "plug")
METHOD_NAMES = ("apet", "full", "bitfit", "adapter", "lora", "prompt", "prefix")
MERGEABLE = ("full", "bitfit", "lora")  # end at a displacement of the base model's own tensors
