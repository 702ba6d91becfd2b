"""The ladder's vocabulary: its size and the ids of its special tokens."""

PAD, EOS, UNK, CLS, SEP, MASK = range(6)
SENTINELS = 32
VOCABULARY = 4096
SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
FIRST_SENTINEL = 6
POSITIONS = 128  # rows of BERT's position table
