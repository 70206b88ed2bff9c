"""A small real CCC, to try the adapter against: `/v1/events`, `/v1/metrics`, `/v1/usage`.

http    sockets (loopback TCP, Unix, TLS), one thread a connection; reads a request, writes an answer
api     request -> answer, over the store
store   SQLite: an event or a metrics row counts once, by its key
faults  what goes wrong on purpose, in a script that is used up request by request
tap     a relay that keeps every byte it passes: the wire, for tests and suites to search
"""

from holdfast.systems.agentos.server.faults import Fault, parse_faults
from holdfast.systems.agentos.server.http import Server
from holdfast.systems.agentos.server.store import Store, Totals
from holdfast.systems.agentos.server.tap import Tap

__all__ = ["Fault", "Server", "Store", "Tap", "Totals", "parse_faults"]
