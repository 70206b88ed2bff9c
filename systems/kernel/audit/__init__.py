"""The audit log: what happened, in an order and a wording that nobody can change afterwards unseen.

Event --encoding--> canonical body --AuditLog--> entry (id, version, body, previous, hash) in SQLite
entries --Merkle tree--> signed checkpoint --> the database, and a witness file elsewhere
database + verifier key (+ witness) --verify--> Report(verdict)      reading needs no private key
"""
