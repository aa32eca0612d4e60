"""A profile for those who want to know whether random cases find something, and not the smallest case that does."""

from hypothesis import Phase, settings

settings.register_profile("find", phases=[Phase.generate])
