"""Recipes: schema, checks, files, overrides and the registry of names."""
