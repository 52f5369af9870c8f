"""infinitedub dubs a catalogue of videos or portraits with new speech: InfiniteTalk as a distributed batch pipeline on Ray.

The five packages inside lie at the top of the checkout, where `conf/`, `stages/`, `pipeline/`, `launch/` and `assets/` are seen first; the links
of this folder give them one namespace, so that no folder of that name in a user's working directory can take their place.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("infinitedub")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
