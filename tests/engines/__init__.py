"""Real engines for the tests, started from Debian's packages: nothing is pulled from anywhere.

A package, unlike the other folders of tests: `docker` and `kubernetes` are names of libraries too,
and would stand in their way on the path.
"""
