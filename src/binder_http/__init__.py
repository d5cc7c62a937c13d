"""The HTTP side of binderkit: a thin Quart adapter, a client and the command line."""
