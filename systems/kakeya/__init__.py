"""Verification controls, each a library by itself, and one small HTTP service around them.

* `ecvrf`      verifiable random function, RFC 9381, fast and plain
* `grounding`  does an answer say what its source says
* `identity`   who asks: stamped by an authenticated gateway, bound to a tenant
* `routing`    which requests may skip the ensemble; decided purely, logged write-once before it takes effect
* `service`    POST /v1/verify: inbox -> identity -> `pcs` -> VRF -> way -> ensemble -> first write (`dedup`)
"""
