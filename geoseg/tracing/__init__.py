"""From class labels to polygons without seams, chunk by chunk: what connects, where it ends, how its outline is drawn.

`regions` tells the story: `components` connects the pixels of a chunk, `joining` what reaches beyond it, `rings` walks
the boundaries, `polygons` puts them together. `sieve` and `pieces` change regions before they are traced, with what
`register` knows of all of them; `arcs` and `thinning` draw their lines anew, between the `corners` of the whole raster.
"""
