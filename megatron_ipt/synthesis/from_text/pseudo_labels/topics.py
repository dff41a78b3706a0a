"""The topic of a text by the URL it came from: news sites sort their articles into sections.

A document has a URL if that is its id, as with ``corpus.id_key: url``. The first part of the path that is more than a
word such as "news" must be in the table, and must be a section, not the article itself. Sections that overlap are one
topic, so that no wrong option is half right.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from megatron_ipt.synthesis.from_text.mined.lexicon import word_set

_SECTIONS = {
    "sport": "sport sports football soccer basketball baseball hockey tennis cricket golf rugby nba nfl nhl mlb f1",
    "business": "business money markets stocks economy finance companies investing",
    "politics": "politics elections election government parliament congress",
    "health": "health medicine wellness fitness coronavirus covid-19",
    "technology": "technology tech gadgets software computers internet gaming",
    "science": "science space physics biology archaeology",
    "entertainment": "entertainment arts-and-entertainment movies film music tv television celebrity arts books",
    "education": "education schools universities higher-education",
    "travel": "travel destinations tourism",
    "food": "food recipes restaurants food-and-drink dining",
    "crime": "crime courts police crime-and-courts",
    "weather": "weather forecasts climate",
}  # fmt: skip
_TOPIC_OF = {section: topic for topic, sections in _SECTIONS.items() for section in sections.split()}
TOPICS = tuple(_SECTIONS)

_PASSED_OVER = word_set(
    "news article articles story stories post posts content blog blogs archive archives en english us uk au ca in ie "
    "nz canada india australia national local international world latest tag category section sections web amp"
)
_MOST_PASSED_OVER = 2


def topic_of(url: str) -> str | None:
    """One of ``TOPICS``; None where the URL names none."""
    if not url.startswith(("http://", "https://")):
        return None
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    *sections, _ = path.lower().split("/")
    named = [section for section in sections if section]
    for section in named[: _MOST_PASSED_OVER + 1]:
        if section not in _PASSED_OVER:
            return _TOPIC_OF.get(section)
    return None
