"""The recipe of ``forest-rgb``: ``python -m pipelines.forest_rgb DATA OUT`` trains, measures and writes the package."""
