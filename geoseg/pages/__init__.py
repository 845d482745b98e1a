"""Pages that open from disk: a run, two dates, the scores of a map, each one HTML file that asks nobody."""
