"""The kernel's security core: what an agent's tools may do, who may, and a log that shows what they did.

    Request + Policy + time snapshot (+ TokenCheck)  --engine.decide-->  Decision        pure
    Peer + Claim                                     --tokens-------->  capability token
    Decision                                         --audit--------->  a chained, sealed, re-decidable log

`guard.Guard` is the one place where these meet: it resolves and opens, checks the token, decides, uses the
token up, writes the log, and only then hands out the opened descriptor.
"""
