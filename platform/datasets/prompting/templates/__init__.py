"""Prompt templates: how a question of each data set is put to the model, one file each.

`template_for("squad")` is the template of a data set, the plain one where it has none of its own.
"""

from ..template import Template, find, names, template, template_for

__all__ = ["Template", "find", "names", "template", "template_for"]
