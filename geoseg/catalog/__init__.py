"""Runs that can be found again: the STAC item of each, a static catalog of many, searches, audits and SQL."""
