"""JupyterHub: `launcher` asks a hub for servers, `spawner` is what the hub itself needs.

Nothing is imported here: a hub that imports `spawner` need not have what the launcher needs.
"""
