"""Names and markers of methods for figures and reports. Figures import this table instead of apet and torch."""

from apet.methods import METHODS

METHOD_WORDS = {name: method.words for name, method in METHODS.items()}
METHOD_MARKERS = {name: method.marker for name, method in METHODS.items()}
