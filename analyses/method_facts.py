"""Names and markers of methods for figures and reports. Figures import this table instead of apet and torch."""

from apet.methods import METHODS, PEFT_METHODS, peft_marker, peft_words

METHOD_WORDS = {name: method.words for name, method in METHODS.items()} | {name: peft_words(name) for name in PEFT_METHODS}
METHOD_MARKERS = {name: method.marker for name, method in METHODS.items()} | {name: peft_marker(name) for name in PEFT_METHODS}
