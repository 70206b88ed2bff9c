"""English words that say how a sentence is built, not what it claims."""

__all__ = ["STOPWORDS"]

# Negations (`no`, `not`, `never`, `without`, `n't`) are not here on purpose: "is safe" and "is not safe"
# differ in nothing else, and an index that drops the one word calls the contradiction grounded.
STOPWORDS = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being below between both
    but by can could did do does doing down during each few for from further had has have having he her here
    hers herself him himself his how i if in into is it it's its itself just me more most my myself of off on
    once only or other our ours ourselves out over own same she should so some such than that that's the their
    theirs them themselves then there these they this those through to too under until up very was we were what
    when where which while who whom why will with would you your yours yourself yourselves
    """.split()
)
