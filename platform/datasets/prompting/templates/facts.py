"""The facts world: the plain template, which has the form of its training texts."""

from __future__ import annotations

from ..template import Template, template


@template("facts")
class Facts(Template):
    """Prompts of the facts world are complete as they are generated; this is for questions without one."""
