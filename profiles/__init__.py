"""The seccomp profiles that ship: `strict`, `standard`, `standard-net`, in the OCI runtime-spec JSON.

`generate.py` holds the lists with their reasons and writes the files; a test compares the two.
"""
