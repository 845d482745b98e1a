"""Stories told with geoseg's public names, run by `make`."""
