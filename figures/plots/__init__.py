"""One module per figure. Its `draw(rows)` returns the figure; the command line uses the module's name."""

from figures.plots.grids import Grid, grids
