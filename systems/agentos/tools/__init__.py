"""Tools beside the adapter: reading the proxy's own logs back in.

fragments     bytes -> JSON objects, through everything that happens to a log; what cannot be read, with its place
backfill_ccp  usage logs and metrics files -> one summary
"""
