"""Residual problems: networks that solve differential equations, fit observations, or both.

:class:`Problem` and :class:`Term` say which residuals shall vanish where; :class:`Box`, :class:`Sphere` and
:class:`Given` make the points. :func:`distnewton.train` takes a problem in place of data; a recipe names it by
``data.train = "module:problem"``. :func:`derivatives` evaluates a model's derivatives.
"""

from distnewton.physics.network import derivatives
from distnewton.physics.points import Box, Given, Points, Sphere
from distnewton.physics.problem import Problem, Term

__all__ = ["Box", "Given", "Points", "Problem", "Sphere", "Term", "derivatives"]
