"""Builds and launches on a Docker engine. See ``docs/docker.md``."""
