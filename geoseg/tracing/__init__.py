"""From class labels to polygons without seams, chunk by chunk: what connects, where it ends, how its outline is drawn.

`regions` tells the story, `chunks` the order of it: `components` connects the pixels of a chunk, `joining` what reaches
beyond it, `rings` walks the boundaries, `polygons` puts them together. `sieve` and `pieces` change regions before they
are traced, with what `register` knows of those in several chunks; `settling` decides which small one goes where. `arcs`
and `thinning` draw lines anew, between the `corners` of the whole raster, which live in a `mapped` file.
"""
