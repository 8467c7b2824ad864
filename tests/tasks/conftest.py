"""Property tests here read files and import numpy: how long one example takes says nothing."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
