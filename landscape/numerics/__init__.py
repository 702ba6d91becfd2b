"""Small numerical tools that every other room uses: named random numbers, roots, dense factorisations, the jackknife.

Nothing here knows of a loss.
"""

# pyright: reportUnusedImport=false

from landscape.numerics.arrays import FloatArray, IntArray
from landscape.numerics.dense import eigh, orthonormal
from landscape.numerics.jackknife import freedom, leave_one_out, leave_out, student
from landscape.numerics.random import Stream, generator, normal, rademacher
from landscape.numerics.roots import root
