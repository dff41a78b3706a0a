"""What to look for in a sentence: tables of cues, shapes, and the question that each shape answers.

A row is tried only when one of its cues, a plain substring, occurs, which keeps mining fast. The names of a shape's
groups say how the matched piece is checked and written:

=============  =======================================================================================================
``subject``    a whole noun phrase before its verb; written as inside a sentence
``statement``  a clause that stands alone; quoted, or asked as ``why {inverted}`` where it can be inverted
``tail``       the rest of the sentence, cut where another clause begins
``fact``       a clause after a conjunction that needs no earlier sentence
others         taken as they are
=============  =======================================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from megatron_ipt.synthesis.from_text.mined.expressions import ABOUT, DATE, MONTH, NUMBER, PERIOD, UNIT
from megatron_ipt.synthesis.from_text.mined.lexicon import CREATED, VERBS

_SUBJECT = r"^(?P<subject>[^,;:()\"“”–—]{2,80}?)"
_APPOSITIVE = r"(?: ?\( ?[^()]{1,60} ?\)| ?, [^,;()]{3,60} ?,)?"
_BE = r"(?P<aux>is|are|was|were)"
_NAME = r"(?:[A-Z][\w'’.-]*|de|van|von|di|da|del|la|le)"


@dataclass(frozen=True)
class Pattern:
    """One row: where ``shape`` matches a sentence without its final mark, ``wording`` asks for ``answer``.

    Attributes:
        category: category of the pair.
        wording: key of the table of wordings.
        cues: substrings of which one must occur.
        shape: the groups; see the module.
        answer: how the answer is written from the groups.
        fields: further values for the wording, written from the groups.
        unless: expression that must not be found in the sentence.
    """

    category: str
    wording: str
    cues: tuple[str, ...]
    shape: re.Pattern[str]
    answer: str
    fields: dict[str, str] = field(default_factory=dict)
    unless: re.Pattern[str] | None = None

    @property
    def wants_subject(self) -> bool:
        """Whether the shape begins with a subject, which an introduction may precede."""
        return "subject" in self.shape.groupindex


def _row(category: str, wording: str, cues: str, shape: str, answer: str, unless: str = "", **fields: str) -> Pattern:
    return Pattern(
        category, wording, tuple(cues.split("|")), re.compile(shape), answer, fields,
        re.compile(unless) if unless else None,
    )  # fmt: skip


_WHY = r"(?: ?,)?(?: (?:largely|mainly|mostly|partly|primarily|chiefly|simply|in part|probably|possibly|especially))?"
_NO_REASON = r"\b(?:not|and|but|or|that|only|just) because\b|, (?:but|whereas|although|so) "

CAUSE = (
    _row(
        "cause and effect", "why", " because ",
        rf"^(?P<statement>[^;:]{{20,240}}?){_WHY} because (?!of\b)(?P<reason>[^;:]{{8,}})$",
        "Because {reason}", unless=_NO_REASON + r"|\b(?:is|was|are|were) (?:\w+ly )?because\b",
    ),
    _row(
        "cause and effect", "result of", "Because |Since |As ",
        r"^(?:Because|Since(?= the\b| a\b| \w+s? (?:is|are|has|have)\b)(?!.* (?:ago|then|\d{4})\b)) (?!of\b)"
        r"(?P<fact>[^,;:]{15,}?) ?, (?P<effect>[^;:]{12,})$",
        "{effect}",
    ),
    _row(
        "cause and effect", "due to", " due to | owing to ",
        rf"{_SUBJECT} {_BE} (?P<adverb>(?:largely |mainly |mostly |partly |primarily )?)(?P<due>due|owing) to "
        rf"(?P<tail>.+)$",
        "{tail}",
    ),
    _row(
        "cause and effect", "why", " due to | owing to | because of | as a result of | thanks to ",
        rf"^(?P<statement>[^;:]{{20,240}}?){_WHY} (?P<link>due to|owing to|because of|as a result of|thanks to) "
        r"(?P<tail>[^;:]{6,})$",
        "{link} {tail}",
        unless=r"\b(?:is|are|was|were|be|been|not|and|or|but|that|which|only|deaths?|losses) (?:\w+ly )?"
        r"(?:due to|owing to|because of|as a result|thanks to)|"
        r"(?: which | who | that | when |, and ).*(?:due to|owing to|because of|as a result|thanks to)|"
        r"^(?:Due|Owing|Because|Thanks)",
    ),
    *(
        _row(
            "cause and effect", "verb object", f" {form} ",
            rf"{_SUBJECT} {form} (?!(?:by|to)\b)(?P<tail>[^;:]{{8,}})$", "{tail}", do=do, verb=verb,
        )
        for form, do, verb in (
            ("causes", "does", "cause"), ("leads to", "does", "lead to"), ("lead to", "do", "lead to"),
            ("led to", "did", "lead to"), ("results in", "does", "result in"), ("resulted in", "did", "result in"),
            ("prevents", "does", "prevent"), ("prevented", "did", "prevent"), ("produces", "does", "produce"),
        )
    ),
    _row(
        "cause and effect", "result of", ", so ",
        r"^(?P<fact>[^;:]{25,}?) ?, (?:and )?so (?P<effect>(?:it|they|he|she|the|a|an|its|their|this|these|most|many|"
        r"only|people|\w+s (?:can|must|are|have))\b[^;:]{12,})$",
        "{effect}", unless=r"\b(?:if|whether) ",
    ),
    _row(
        "purpose", "purpose", " in order to ",
        r"^(?P<statement>[^;:]{20,240}?)(?: ?,)? in order to (?P<tail>.{8,})$", "To {tail}",
        unless=r"\b(?:must|needs?|has to|have to|had to|and|or) (?:\w+ )?in order to",
    ),
)  # fmt: skip

CONTRAST = (
    _row(
        "contrast", "contrast to", "whereas ",
        r"^(?P<statement>[^;:]{15,}?) ?, whereas (?P<other>[^;:]{10,})$", "{other}",
    ),
    _row(
        "contrast", "but", ", but ",
        r"^(?P<statement>[^;:]{20,}?) ?, but (?P<other>(?:it|they|he|she|this|these|the|a|an|its|their|his|her|no|many|"
        r"most|some|few|only|others|there|in|on|at|when|if)\b[^;:]{12,})$",
        "{other}", unless=r"\bnot (?:only|just|merely|by)\b",
    ),
    _row(
        "contrast", "although", "Although |Though |Even though |While ",
        r"^(?P<link>Although|Though|Even though|While(?=.* (?:is|are|can|has|have)\b)) (?P<fact>[^,;:]{12,}?) ?, "
        r"(?P<other>[^;:]{12,})$",
        "{other}", unless=r"\b\w+ing ?,|\bstill in\b",
    ),
    _row(
        "contrast", "despite", "Despite |In spite of ",
        r"^(?P<link>Despite|In spite of) (?P<phrase>[^,;:]{6,80}?) ?, (?P<other>[^;:]{12,})$", "{other}",
        unless=r"^(?:Despite|In spite of) (?:\w+ing|its|his|her|their|this|these|that|being|all)\b",
    ),
    _row(
        "contrast", "unlike", "Unlike ",
        r"^Unlike (?P<phrase>[^,;:]{3,60}?) ?, (?P<other>[^;:]{12,})$", "{other}",
        unless=r"^Unlike (?:its|his|her|their|this|these|that|many|most|some|other|the other|previous)\b",
    ),
)  # fmt: skip

_KIND = (
    r"(?:an?|one of the|any|the (?:first|last|only|second|third|most|\w+est|practice|study|process|art|science|name|"
    r"act|use|part|branch|ability)\b)"
)

DEFINITION = (
    _row(
        "definition", "what is", " is a| is an| is the | is any | is one | are a | are one ",
        rf"{_SUBJECT}{_APPOSITIVE} (?P<aux>is|are) (?P<definition>{_KIND} .{{10,}})$", "{definition}",
        unless=r" (?:is|are) (?:a|an) (?:few|lot|little|great deal|number|bit|further|good|matter|long|key|major|common"
        r" [a-z]+ of|result|sign|case|question|problem|(?:\w+ )?example)\b",
    ),
    _row(
        "definition", "what is", " are ",
        rf"{_SUBJECT} (?P<aux>are) (?P<definition>(?:[a-z-]+ ){{0,3}}[a-z]{{3,}}s (?:that|which|who|used to|made "
        rf"of) .{{6,}})$",
        "{definition}", unless=r" are (?:always|this|thus|as|perhaps|\w+ly) ",
    ),
    _row(
        "definition", "who was", " was a| was an| was the | were a",
        rf"{_SUBJECT}{_APPOSITIVE} (?P<aux>was|were) (?P<definition>{_KIND} .{{10,}})$", "{definition}",
        unless=r" (?:was|were) (?:a|an) (?:few|lot|little|great deal|number|bit|further|good|matter|long|key|"
        r"major|result|"
        r"sign|case|question|problem|commercial|critical|success|failure|huge|mixed|part|member)\b",
    ),
    _row(
        "definition", "defined as", " is defined as | are defined as ",
        rf"{_SUBJECT} (?P<aux>is|are) defined as (?P<tail>.{{10,}})$", "{tail}",
    ),
    _row(
        "definition", "verb object", " refers to ",
        rf"{_SUBJECT} refers to (?P<tail>.{{8,}})$", "{tail}", do="does", verb="refer to",
    ),
    _row(
        "name", "another name", " known as | called | referred to as ",
        r"^(?P<subject>[^,;:()\"“”–—]{3,50}?) ?(?:,|\() ?(?:also|sometimes|commonly|often|better|popularly|otherwise|"
        r"formerly|originally) (?:known as|called|referred to as) (?P<name>[^,;:()]{2,50}?) ?(?:,|\))",
        "{name}",
    ),
    _row(
        "name", "called", " called | known as | referred to as ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:(?:also|now|often|usually|sometimes|commonly|then|originally|formerly) )?"
        r"(?:called|known as|referred to as)) (?P<name>[^,;:()]{2,50}?)(?: ?[,;(]| because | since | and (?:is|"
        r"was|are|it)\b|$)",
        "{name}",
    ),
)  # fmt: skip

_WHAT_PHRASES = (
    "named after|made of|made from|made up of|composed of|derived from|divided into|based on|known for|famous for|"
    "best known for|attributed to|surrounded by|covered with|covered by|filled with|replaced by|followed by|"
    "connected to|caused by|driven by|powered by|influenced by|inspired by|responsible for|measured in|formed by|"
    "formed from|held together by|controlled by|protected by|supported by|used for|used as|used in|used by|"
    "dedicated to|home to|similar to|equal to|believed to be|thought to be|considered to be"
)

DETAIL = (
    _row(
        "facts", "what be", " is | are | was | were ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:(?:usually|often|mainly|now|originally|also|traditionally|commonly|partly) )?"
        rf"(?:{_WHAT_PHRASES})) (?P<tail>.{{3,}})$",
        "{tail}",
    ),
    _row(
        "facts", "used to", " used to ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:(?:usually|often|mainly|now|originally|also|traditionally|commonly) "
        rf")?used) to "
        r"(?P<tail>.{5,})$",
        "To {tail}",
    ),
    _row(
        "facts", "how", " by ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:\w+ )?\w+(?:ed|en|wn|de|ght|lt)) (?P<tail>by (?:first )?\w+ing "
        rf".{{8,}})$", "{tail}",
    ),
    _row(
        "facts", "by what", " by ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:\w+ly )?\w+(?:ed|en|wn|ilt|ght|eld|un|id|de|put)) by (?P<tail>(?:the |"
        rf"an? |its |his |"
        r"her |their |many |several |both |[a-z]+s |[A-Z]).{4,})$",
        "{tail}", unless=rf" by (?:the (?:end|time|early|late|mid|beginning|\d)|an? (?:few|margin|further|factor|"
        rf"third|half)|"
        rf"{MONTH})\b| by \w+ing\b|(?:{CREATED}) by [A-Z]",
    ),
    _row(
        "who", "who did", " by ",
        rf"{_SUBJECT} (?:was|were) (?:originally |first |later |jointly )?(?P<participle>{CREATED}) by "
        rf"(?P<agent>(?:the )?[A-Z][\w'’.-]+(?: {_NAME})*(?: and {_NAME}(?: {_NAME})*)?)(?= in | on | at | for | "
        rf"as | from | ?,| and |$)",
        "{agent}",
    ),
    _row(
        "place", "where", " located | situated | found | based | born | buried | held | built | kept | stored | made ",
        rf"{_SUBJECT} {_BE} (?P<manner>(?:\w+ly )?(?:located|situated|found|based|born|buried|held|built|stored)) "
        r"(?P<tail>(?:in|at|near|along|between|around|beneath|under|inside|on the (?:\w+ )?"
        r"(?:coast|bank|banks|shore|shores|edge|island|slopes|border|floor|site|walls|corner|outskirts)) "
        r"(?:the (?!\d|early|late|mid|spring|summer|autumn|winter|same|\w+ century|case|form|process|event|"
        r"context|style|"
        r"hope|name)|[A-Z](?!\w+ \d)|\w+ and ).{3,})$",
        "{tail}", unless=rf"\b(?:in|at|between|around) (?:the )?(?:{MONTH})\b|born in the ",
    ),
    *(
        _row(
            "place", "where verb", f" {form} ",
            rf"{_SUBJECT} {form} (?P<tail>(?:in|at|near|along|between|on|beneath|under) (?:the|[A-Z]\w+) .{{3,}})$",
            "{tail}", do=do, verb=verb,
            unless=rf"{form} (?:in|at|on) (?:the (?:same|way|form|past|idea|hope|fact|case|power|middle of a)\b|"
            rf"{DATE})",
        )
        for form, do, verb in (
            ("lies", "does", "lie"), ("stands", "does", "stand"), ("lives", "does", "live"), ("live", "do", "live"),
            ("grows", "does", "grow"), ("grow", "do", "grow"), ("occurs", "does", "occur"), ("begins", "does", "begin"),
            ("rises", "does", "rise"), ("took place", "did", "take place"), ("takes place", "does", "take place"),
        )
    ),
    *(
        _row(
            "quantity", "how many", f" {form} ",
            rf"{_SUBJECT} {form} (?P<number>(?:{ABOUT} )?{NUMBER}) (?P<things>(?!more |other |of )(?:[a-z-]+ "
            rf"){{0,2}}[a-z]+(?:s|children|people|men|"
            rf"women|feet|teeth))(?= ?,| ?;| ?\(| of | in | on | at | that | which | with | for | from | to | "
            rf"who | and (?:is|was|"
            r"are|can|has)\b|$)",
            "{number}", do=do, verb=verb, unless=rf"{form} (?:{ABOUT} )?{NUMBER} (?:\w+ )?(?:years|days|months|"
            rf"weeks|hours|times|"
            r"minutes|seconds|is|as|of)\b",
        )
        for form, do, verb in (
            ("has", "does", "have"), ("have", "do", "have"), ("had", "did", "have"), ("contains", "does", "contain"),
            ("contain", "do", "contain"), ("includes", "does", "include"), ("included", "did", "include"),
            ("comprises", "does", "comprise"), ("holds", "does", "hold"), ("employs", "does", "employ"),
            ("carried", "did", "carry"), ("carries", "does", "carry"), ("won", "did", "win"),
        )
    ),
    _row(
        "quantity", "how many are there", "There ",
        rf"^There (?P<aux>are|were) (?P<number>(?:{ABOUT} )?{NUMBER}) (?P<things>(?:(?!as |of |to |is )[a-z-]+ "
        rf"){{0,2}}(?!as\b|is\b)[a-z]+(?:s|people|children))"
        r"(?: (?P<rest>(?:in|on|at|of|for|to|between|that|which|who|inside|within|along|around) [^,;:]{4,80}))?$",
        "{number}",
    ),
    _row(
        "quantity", "how many subject", " ",
        rf"^(?P<number>(?:(?i:{ABOUT}) )?(?i:{NUMBER})) (?P<counted>(?!(?:years?|days?|months?|weeks?|hours?|minutes?|"
        r"other|others|more|of|such|to|in|as|per|times|and|or|is|was)\b)[a-z-]{3,}(?: [a-z-]+)? [^,;:]{15,110})$",
        "{number}", unless=r"^[^,]{0,60} (?:later|earlier|ago|after|before|kinds?|types?|examples?)\b|thirds|"
        r"quarters|halves|^(?:One|\d{4}|\d) ",
    ),
    _row(
        "quantity", "how long", " long | tall | high | wide | deep | thick | old | long| tall| high| wide| deep| "
        "thick| old",
        rf"{_SUBJECT} {_BE} (?P<number>(?:{ABOUT} )?{NUMBER} {UNIT}(?: ?\( ?[^()]{{1,20}} ?\))?) "
        rf"(?P<dimension>long|tall|high|wide|"
        r"deep|thick|old)\b",
        "{number}",
    ),
    _row(
        "quantity", "measure", " of ",
        rf"{_SUBJECT} (?P<have>has|have|had) an? (?P<measure>(?:[a-z]+ )?(?:population|length|height|width|depth|"
        rf"area|mass|weight|"
        rf"diameter|capacity|wingspan|thickness|speed|temperature|volume|span)) of (?P<number>(?:{ABOUT} )?{NUMBER}"
        rf"(?: {UNIT})?(?: ?\( ?[^()]{{1,24}} ?\))?)",
        "{number}",
    ),
    *(
        _row(
            "list", "verb object", f" {form} ",
            rf"{_SUBJECT} {form} (?P<list>[^;:()]{{12,}})$", "{list}", do=do, verb=verb, unless=r", (?:which|but|"
            r"who|although|with|while) ",
        )
        for form, do, verb in (
            ("consists of", "does", "consist of"), ("consist of", "do", "consist of"),
            ("consisted of", "did", "consist of"), ("comprises", "does", "comprise"),
        )
    ),
    _row(
        "list", "examples", " such as ",
        r"(?: (?:of|for|in|by|and|from|the|on|like|many|some|other|various|several|certain|different) )"
        r"(?P<things>(?:[a-z-]{3,} )?[a-z-]{3,}s) ?,? such as (?P<examples>[^;:()]{3,} (?:and|or) [^;:(),]{3,40})$",
        "{examples}", unless=r"such as .*(?:\b(?:is|are|was|were|which|that|but|can|has|have|had|will|who|"
        r"because|do|does)\b)",
    ),
)  # fmt: skip

_NAMED = r"(?P<subject>(?:The )?[A-Z][\w'’-]+(?: (?:of the|of|de|van|von|[A-Z][\w'’-]*|[A-Z]\.))*)"

VERB = (
    _row(
        "who or what", "who or what",
        "|".join(f" {form} " for form in (*VERBS, "was", "led", "made", "began", "built", "took")),
        rf"^{_NAMED}{_APPOSITIVE} (?P<deed>(?:was|became|{'|'.join(VERBS)}|led|made|began|built|took|discovered|wrote) "
        r"(?!(?:in|at|by|on|from|as|for|to|into|with) )"
        r"(?!(?:not|also|then|born|it|he|she|they|this|that|therefore|thus|still|later)\b)[^;:]{15,120})$",
        "{subject}",
        unless=r"^(?:The )?[A-Z]\w+ (?:was|became) (?:an?|the|one) ",
    ),
    _row(
        "definition", "apposition", ", a |, an |, the ",
        r"(?:^|(?<= by )|(?<= with )|(?<= to ))(?P<subject>[A-Z][\w'’-]+(?: (?:of|de|van|von|[A-Z][\w'’.-]*))*)"
        r" ?, (?P<definition>(?:an?|the (?:first|last|only|\w+est|capital|founder|author|leader|head|owner|inventor|"
        r"daughter|son|wife|husband|brother|sister|father|mother)) [^,;:()]{5,90}?) ?, (?!(?:and|or|an?|the)\b)",
        "{definition}",
        unless=r", (?:the|an?) (?:[^, ]+ ){0,5}(?:is|are|was|were|has|had|have|can|will|would|made|led|said)\b",
    ),
    _row(
        "facts", "verb object", "|".join(f" {form} " for form in VERBS),
        rf"{_SUBJECT} (?P<form>{'|'.join(VERBS)}) (?P<tail>(?:the (?!(?:following|previous|next|same|last|first "
        rf"time|day|"
        r"year|way|most|latter|former|other)\b)|an? (?!(?:few|lot|number|little|great deal|year|day|month|week)\b)|"
        r"its |his |her |their |[A-Z][a-z]+|several |many |both |[a-z-]+ (?:and|or) [a-z]+|[a-z-]+(?:al|ic|ous|ive|ful|"
        r"less|able|ish|ern) ).{4,})$",
        "{tail}", unless=r"\b(?:to|have|has|had|was|were|is|are|be|been|being|by|not) (?:"
        + "|".join(VERBS) + r") (?:the|an?) ",
    ),
)  # fmt: skip

_LATER_CLAUSE = (
    r"(?: (?:which|who|whom|that|when|after|before|until|while|whose|where|because|although|as|if|than) |"
    r"\b(?:death|birth|arrival|merger|war|\w+tion|\w+ment|\w+ing) (?:in|on|from|between) |"
    r" (?:is|are|was|were) (?:estimated|expected|believed|thought|said|reported) )"
)
"""A date behind one of these may belong to it and not to the whole sentence."""

TIME = (
    _row(
        "date", "when did", " in | on ",
        rf"{_SUBJECT} (?P<aux>was|were) (?P<deed>(?!not\b)[^,;:()]{{4,70}}?) (?P<date>(?:in|on) {DATE})"
        r"(?= ?[,;](?! ?\d)| and (?!\d)| by | to | as | after | when | with | at | for | but |$)",
        "{date}", unless=rf" (?:was|were) (?:in|on|from|between) |{_LATER_CLAUSE}.* (?:in|on) {DATE}",
    ),
    _row(
        "date", "when", " from | between ",
        rf"^(?P<statement>[^;:]{{20,200}}?)(?: ?,)? (?P<date>(?:from {DATE} (?:to|until|till)|between {DATE} "
        rf"and) {DATE})$",
        "{date}",
        unless=rf"^(?:In|On|By|From|Between|Until|Since|After|Before|During|Although|Though|While|When|As|"
        rf"Because|If) |{_LATER_CLAUSE}",
    ),
    _row(
        "date", "when", "In |On ",
        rf"^(?P<date>(?:In|On) {PERIOD}) ?,? (?P<statement>(?![,–-])(?!and\b|or\b|when\b|to\b|by\b)[^;:]{{20,200}})$",
        "{date}",
    ),
    _row(
        "date", "when", " in | on ",
        rf"^(?P<statement>[^;:]{{20,200}}?)(?: ?,)? (?P<date>(?:in|on) {PERIOD})$", "{date}",
        unless=rf"^(?:In|On|By|From|Between|Until|Since|After|Before|During|Although|Though|While|When|As|"
        rf"Because|If) |{_LATER_CLAUSE}",
    ),
)  # fmt: skip

PATTERNS = (*CAUSE, *CONTRAST, *DEFINITION, *DETAIL, *VERB, *TIME)


def _index() -> tuple[dict[str, list[int]], list[int]]:
    by_word: dict[str, list[int]] = {}
    always = []
    for number, pattern in enumerate(PATTERNS):
        keys = {max(cue.strip(" ,").split(), key=len, default="") for cue in pattern.cues}
        if min(map(len, keys)) < 2:
            always.append(number)
            continue
        for key in keys:
            by_word.setdefault(key, []).append(number)
    return by_word, always


_BY_WORD, _ALWAYS = _index()


_MANY = 20
"""Patterns with more cues than this have single words for cues, and these have been looked up."""


def candidates(core: str) -> list[Pattern]:
    """The patterns of which a cue occurs in ``core``, in the order of the table.

    A word of every cue is looked up, so the cost is that of the words of the sentence and not of the table.
    """
    numbers = set(_ALWAYS)
    for word in core.replace(",", " ").split():
        if word in _BY_WORD:
            numbers.update(_BY_WORD[word])
    return [
        PATTERNS[number]
        for number in sorted(numbers)
        if len(PATTERNS[number].cues) > _MANY or any(cue in core for cue in PATTERNS[number].cues)
    ]


@dataclass(frozen=True)
class Link:
    """One row for two neighbouring sentences: the second opens with ``opening`` and a comma.

    Attributes:
        ask: ``first`` or ``second``: which one the question quotes; the other is the answer.
    """

    category: str
    wording: str
    opening: re.Pattern[str]
    ask: str = "first"


LINKS = (
    Link(
        "cause and effect", "result of",
        re.compile(r"(?:Therefore|Consequently|Accordingly|As a result|As a consequence|For this reason|For that "
        r"reason|"
                   r"Because of this|Thus|Hence)(?: ?, | (?=(?:the|a|an|it|they|he|she|many|most|some)\b))"),
    ),
    Link(
        "cause and effect", "reason for", re.compile(r"(?:This|That) (?:is|was) (?:mainly |largely |partly )?because "),
    ),
    Link(
        "contrast", "but",
        re.compile(r"(?:However|In contrast|By contrast|On the other hand|Nevertheless|Nonetheless|Conversely|"
                   r"On the contrary|Even so|Despite this|In spite of this) ?, "),
    ),
    Link(
        "paraphrase", "in other words",
        re.compile(r"(?:In other words|That is to say|That is|Put differently|Put simply|Put another way|"
                   r"To put it another way) ?, "),
    ),
    Link("example", "example", re.compile(r"(?:For example|For instance) ?, ")),
)  # fmt: skip

ACRONYM = re.compile(
    r"(?P<long>(?:[A-Z][\w'’-]+|of|the|for|and|on|in|&)(?: (?:[A-Z][\w'’-]+|of|the|for|and|on|in|&)){1,8}) \( "
    r"?(?P<short>[A-Z]{2,7}) ?\)"
)
"""A name followed by its abbreviation in parentheses."""
