"""Getting what a tier lets out to the CCC, once each, through anything.

    outbox    a fold over the log into SQLite: rows in order, and the place in the log they came from
    depth     the outbox's books, for a look from outside
    endpoint  the CCC's address
    retry     pure: what an answer means, how long to wait
    channel   one HTTP client, made from Minimized or Full only
    sender    drain: rows -> batches -> channel -> retry -> rows gone, set aside, or still there and why

Nothing is re-exported here: who only looks at the books must not load the HTTP client with them.
"""
