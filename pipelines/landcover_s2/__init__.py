"""The recipe of ``landcover-s2``: ``python -m pipelines.landcover_s2 OUT`` makes scenes, trains, writes the package."""
