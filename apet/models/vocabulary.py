"""The ladder's vocabulary: the ids of its special tokens and its size."""

PAD, EOS, UNK, CLS, SEP, MASK = range(6)
SENTINELS = 32
VOCABULARY = 4096
SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
FIRST_SENTINEL = 6
POSITIONS = 128  # in BERT's table
