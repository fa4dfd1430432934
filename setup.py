"""Lets old tools build cached_ds; the metadata stands once, in pyproject.toml."""

from setuptools import setup

setup()
