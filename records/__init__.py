"""Records: bytes that must survive and be signed. Imports nothing else of ours.

* `canonical`: one value, one spelling (RFC 8785), and parsing that refuses a second reading;
* `dsse`: signatures over a payload and its type together.
"""

__all__: list[str] = []
