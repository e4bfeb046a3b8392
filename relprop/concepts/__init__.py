"""What channels stand for: pictures in which each is most relevant, and sheets of their crops.

`collect_references` goes through a folder and writes one HDF5 file; `References.sheet` draws the channels of an
explanation beside them. Maps of channels are made by `relprop.Explainer` with ``concepts``.
"""

from relprop.concepts.collect import collect_references
from relprop.concepts.references import References
from relprop.concepts.table import ReferencesError

__all__ = ["References", "ReferencesError", "collect_references"]
