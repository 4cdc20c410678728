"""The protocols of a server, a file each."""
