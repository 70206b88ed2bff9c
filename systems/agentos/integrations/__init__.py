"""What an agent's program talks to.

Recorder     writes the log, its counts and its summary; knows no tier and no transport
CCCClient    starts sessions under a tier; what it starts is a Recorder's session and, under a tier that
             reports, an uplink beside it
"""
