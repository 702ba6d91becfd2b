"""One file a figure: `draw(rows)` returns it, under the name that the command line uses."""
