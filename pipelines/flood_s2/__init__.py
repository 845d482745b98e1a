"""The recipe of ``flood-s2``: ``python -m pipelines.flood_s2 DATA OUT`` trains, measures and writes the package."""
