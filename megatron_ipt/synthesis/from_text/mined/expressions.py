"""Pieces of regular expressions: dates, numbers, units, words for persons."""

from __future__ import annotations

import re

MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"  # the full names only
YEAR = r"(?:1[0-9]{3}|20[0-2][0-9])"
DATE = (
    rf"(?:\d{{1,2}} (?:{MONTH})(?: ?,? {YEAR})?|(?:{MONTH}) \d{{1,2}}(?: ?, {YEAR})?(?! ?\d)|(?:{MONTH}) {YEAR}|{YEAR})"
)
PERIOD = (
    r"(?:the )?(?:early |late |mid-?|mid @-@ |(?:spring|summer|autumn|fall|winter) (?:of )?)?"
    rf"(?:\d{{1,2}}(?:th|st|nd|rd)|\d{{3}}0s|{DATE})(?: century)?(?: BC| AD)?"
)
NUMBER_WORD = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|twenty|thirty|forty|"
    "fifty|sixty|a hundred|a thousand"
)
NUMBER = rf"(?:\d+(?:,\d{{3}}| @,@ \d{{3}})*(?:\.\d+| @\.@ \d+)?(?: (?:million|billion|thousand))?|{NUMBER_WORD})"
ABOUT = r"(?:about|around|nearly|almost|approximately|roughly|over|up to|at least|more than|less than|some|only|just)"
UNIT = (
    r"(?:millimetres?|centimetres?|metres?|kilometres?|millimeters?|centimeters?|meters?|kilometers?|miles?|feet|foot|"
    r"inch(?:es)?|yards?|km|m|cm|mm|ft|kilograms?|grams?|tonnes?|tons?|pounds?|kg|lb|years?|days?|hours?|minutes?|"
    r"seconds?|months?|weeks?|degrees|acres|hectares|litres?|per cent|percent|%|square (?:miles|kilometres|"
    r"metres|feet))"
)

PERSON = re.compile(
    r"\b(?:\w+(?:ist|ician|grapher|maker|writer|ologist|player|singer|woman|ainter|inger|ancer|eacher|eader|"
    r"hemist)|\w*man|poet|"
    r"author|actor|actress|king|queen|emperor|president|minister|politician|general|admiral|soldier|officer|engineer|"
    r"inventor|explorer|architect|composer|conductor|philosopher|lawyer|judge|doctor|physician|nurse|footballer|"
    r"cricketer|wrestler|boxer|runner|swimmer|coach|manager|bishop|priest|monk|saint|pope|professor|scholar|historian|"
    r"director|producer|editor|critic|monk|prince|princess|duke|earl|baron|nobleman|knight|merchant|farmer|sailor|"
    r"pilot|astronaut|astronomer|mathematician|sculptor|novelist|reformer|leader|member|person|child|son|daughter|"
    r"brother|sister|wife|husband|character|pioneer|founder|rapper|clockmaker|teacher)\b"
)
"""Words for persons in a definition."""
