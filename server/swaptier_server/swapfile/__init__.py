"""The swap file: a device in SQLite that outlives the server."""
