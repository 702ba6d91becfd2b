"""What figures and reports show of each method: figures import this table, and neither apet nor torch."""

from apet.methods import METHODS

METHOD_WORDS = {name: method.words for name, method in METHODS.items()}
METHOD_MARKERS = {name: method.marker for name, method in METHODS.items()}
