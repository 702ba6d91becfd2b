"""Generated tasks of each type, for use without data files. GENERATORS maps a name to `generate(split, count, seed=0)`."""

from apet.tasks.generated import nli, paraphrase, qa, review, sentiment, summary

GENERATORS = {
    "mini-review": review.generate,
    "mini-sentiment": sentiment.generate,
    "mini-nli": nli.generate,
    "mini-paraphrase": paraphrase.generate,
    "mini-qa": qa.generate,
    "mini-summary": summary.generate,
}
