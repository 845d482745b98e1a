"""What geoseg costs, measured side by side: `make bench`, or ``python -m benchmarks --quick NAME...``.

Every module measures one promise and returns `measure.Figure` rows; `run` makes one table of them, in Markdown and
JSON. A figure that has a target says whether it was met on the machine that measured it.
"""
