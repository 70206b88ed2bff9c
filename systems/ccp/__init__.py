"""ccp, a routing proxy in front of the Anthropic Messages API: whole requests in, verbatim bytes out.

Five nouns, and what flows between them:

    bytes -> http1.RequestReader -> Request -> routing.decide -> Route -> lanes.upstream_head -> bytes
    bytes -> http1.ResponseReader -> relayed as they came; observer.Observer looks at a copy

* an **origin** is a scheme, host and port; a **secret** is bound to exactly one of them;
* a **lane** is an upstream with a rule for credentials; a **policy** maps models to lanes;
* an **exchange** is one request with its answer, and leaves one line in the usage log.

Everything up to the bytes is pure and tested without a socket. `relay` is the one module that talks to
sockets; `cli` the one that talks to people.
"""

__all__: list[str] = []
