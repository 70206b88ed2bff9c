"""English words that say how a sentence is built, not what it claims."""

__all__ = ["STOPWORDS"]

# Negations (`no`, `not`, `never`, `without`, `n't`) are not here on purpose: "is safe" and "is not safe"
# differ in nothing else, and an index that drops the one word calls the contradiction grounded. Nor are
# words of place, order and measure (`below`, `after`, `only`, `most`), for the same reason.
_LIST = """
a about again all also am an and any are as at be because been being between both but by can could
did do does doing each for from further had has have having he her here hers herself him himself his
how i if in into is it it's its itself just me my myself of on once or our ours ourselves she should
so some such than that that's the their theirs them themselves then there these they this those
through to too very was we were what when where which while who whom why will with would you your
yours yourself yourselves
"""
STOPWORDS = frozenset(_LIST.split())
