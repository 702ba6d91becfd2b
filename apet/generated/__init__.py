"""Generated tasks, one of each type, so that a demonstration needs no data files: name -> `generate(split, count, seed=0)`."""

from apet.generated import nli, paraphrase, qa, sentiment, summary

GENERATORS = {
    "mini-sentiment": sentiment.generate,
    "mini-nli": nli.generate,
    "mini-paraphrase": paraphrase.generate,
    "mini-qa": qa.generate,
    "mini-summary": summary.generate,
}
