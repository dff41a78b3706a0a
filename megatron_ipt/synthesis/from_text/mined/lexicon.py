"""Lists of English words used by the sentence splitter, the grammar checks and the typed values."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


MONTHS = word_set("january february march april may june july august september october november december")

NEVER_LAST = word_set(
    "dr mr mrs ms prof st mt ft gen col capt cpt maj lt cmdr sgt cpl adm rev hon pres gov sen rep messrs mme mlle fr "
    "vs cf viz e.g i.e eg ie al c ca fig figs vol vols pp ed eds trans approx est dept univ assn nos var sp spp subsp "
    "ssp"
)
"""Abbreviations that are followed by what they belong to."""

BEFORE_NUMBER = word_set("no nos p pp fig figs vol vols ch sec art eq op bk pt")
"""Words that are abbreviations only when a number follows."""

BEFORE_LETTER = word_set("a an the vitamin type group grade class plan letter hepatitis phase team and or")
"""Words after which a single letter is a word of its own and not an initial."""

MAY_BE_LAST = word_set(
    "inc ltd co corp bros jr sr etc esq jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs "
    "fri sat sun ave blvd rd sq mts bc ad am pm ph.d phd md"
)
"""Abbreviations after which a sentence may end; it does when a word follows that opens sentences."""

OPENERS = word_set(
    "the a an in on at by for from with as after before during since until when while although though if because it he "
    "she they this these that those its his her their there here we i you our my one some many most several all both "
    "each every another other others no not however but and or so yet then thus therefore hence moreover furthermore "
    "nevertheless meanwhile also such what who where why how following according despite unlike instead"
)

PRONOUNS = word_set(
    "it he she they this that these those its his her hers their theirs we our i you your my me us him them one ones "
    "such another others some both neither either each all none many most several few much more less so here there "
    "who what which whose where when why how whatever whoever himself herself itself themselves someone anyone "
    "everyone nobody nothing something everything"
)
"""Words whose meaning lies outside the sentence they open."""

QUANTIFIERS = word_set("most many several all both each")
"""Words that need no earlier sentence when a noun follows."""

CONNECTIVES = word_set(
    "however therefore thus hence accordingly consequently moreover furthermore additionally also besides instead "
    "otherwise nevertheless nonetheless meanwhile then afterwards afterward later eventually finally similarly "
    "likewise "
    "conversely indeed still yet but and or nor rather first firstly second secondly third thirdly next last lastly "
    "today now earlier previously subsequently again overall perhaps maybe even only unfortunately fortunately "
    "alternatively specifically together"
)
"""Words that tie the sentence they open to the one before."""

PREPOSITIONS = word_set(
    "in on at by for from with without after before during since until till under over above below between among "
    "through throughout within into onto upon about against across along around behind beside beyond despite like "
    "unlike near off out outside inside per to toward towards via of as than because due while although though if "
    "unless whereas when whenever where wherever once following according given except apart up down no not"
)
"""Words that open something other than a noun phrase."""

DETERMINERS = word_set("the a an")

CLAUSE_WORDS = word_set(
    "is are was were be been being am has have had having do does did can could will would may might must shall should "
    "said says say claimed claims believed believes thought thinks felt knew knows found finds argued argues stated "
    "states noted notes reported reports announced suggested suggests showed shows shown revealed reveals wrote writes "
    "made makes took takes gave gives came comes went goes became become becomes began begins got gets left saw sees "
    "that which who whom whose where when if because as than while although though but whether what how why until "
    "since cannot not also then there it he she they we i you this these those"
)
"""Words that do not occur inside a plain noun phrase."""

OBJECT_OPENERS = word_set("the a an his her its their that this these those it him them")

ENGLISH = word_set(
    "the of and to is was are were that with for which from this by on as at it has had have be been not their its his "
    "they can when into than"
)
"""Words of which real English has many and other languages few."""

TYING_SECONDS = word_set(
    "latter former same other others result results example instance addition contrast consequence fact turn order "
    "conclusion response least last first following effect"
)
"""Second words of openings such as "the latter" and "for example"."""

CONTEXT_NOUNS = word_set(
    "reason result results problem answer aim goal purpose effect difference idea first second third last latter "
    "former "
    "other same following remainder rest others latter next question work event series game match episode song album "
    "book film story battle attack incident two three four pair group team man woman men women price cost name word "
    "method system company"
)
"""Nouns that with an article alone do not say which one is meant."""

SKIPPED_AFTER_AUXILIARY = word_set("therefore thus hence however because due that only so")

BEFORE_YEAR = (
    word_set(
        "in since until till by during before after around about early late mid from to between and spring "
        "summer autumn "
        "winter of"
    )
    | MONTHS
)

BEFORE_NAME = word_set("in at by near from to with called named of between into")

NOT_COUNTED = word_set(
    "of to in and or as is was at by the for on century centuries times days later hundred thousand other more "
    "different main people's who that with from per have were are had"
)

GENERIC = word_set(
    "however although because between through without another against several different sometimes usually whether "
    "something together towards therefore example examples including included include includes according following "
    "followed already became becomes become before himself herself itself themselves question various similar possible "
    "several instead despite whereas throughout thousand hundred million billion century decades quickly nothing "
    "anything everything perhaps certain general another further largest smaller greater shorter highest thought "
    "brought through consists contain contains mention mentioned believe believed started finally around besides "
    "beneath outside current present previous recent another however within usually almost nearly became having making "
    "looking getting becoming another called considered located situated received provided allowed required appeared "
    "continued remained returned reached decided managed followed together produce produced important particular "
    "approximately whenever"
)

NOT_NAMES = MONTHS | word_set(
    "monday tuesday wednesday thursday friday saturday sunday english french dutch greek swiss welsh czech mr "
    "mrs ms dr "
    "sir lord king queen saint st i christian jewish muslim catholic protestant arabic latin"
)
"""Words with a capital that name nothing by themselves."""

ADJECTIVE_ENDINGS = ("ish", "ian", "ean", "ese", "can", "ern", "ic", "man")
"""Endings of words with a capital that are adjectives of places and peoples."""

FAITHS = word_set(
    "buddhism hinduism judaism catholicism protestantism calvinism marxism taoism daoism sikhism jainism lutheranism "
    "zionism confucianism shinto anglicanism methodism"
)
"""Words that look like common nouns and keep their capital."""

PLAIN_OPENERS = word_set(
    "other early late modern ancient medieval young old new large small big great long short high low good common rare "
    "early female male adult public private local national different similar various certain typical natural "
    "wild people "
    "children scientists researchers engineers historians farmers sailors doctors critics fans students teachers"
)
"""Words that are written small inside a sentence even if the text does not show it."""

_VERB_TABLE = """
receive received receives|publish published publishes|build built builds|develop developed develops|
introduce introduced introduces|win won wins|produce produced produces|release released releases|
record recorded records|contain contained contains|provide provided provides|require required requires|
own owned owns|feature featured features|represent represented represents|describe described describes|
offer offered offers|establish established establishes|open opened opens|design designed designs|
invent invented invents|discover discovered discovers|create created creates|become became becomes|
need needed needs|use used uses|cover covered covers|control controlled controls|carry carried carries|
reach reached reaches|protect protected protects|destroy destroyed destroys|replace replaced replaces|
support supported supports|form formed forms|measure measured measures|absorb absorbed absorbs|store stored stores|
supply supplied supplies|defeat defeated defeats|earn earned earns|sign signed signs|launch launched launches|
complete completed completes|acquire acquired acquires|gain gained gains|join joined joins|paint painted paints|
write wrote writes|compose composed composes|lose lost loses|capture captured captures|adopt adopted adopts|
propose proposed proposes|buy bought buys|sell sold sells|teach taught teaches|hold held holds|
determine determined determines|reduce reduced reduces|increase increased increases|explain explained explains|
house housed houses|connect connected connects|include included includes|resemble resembled resembles|
eat ate eats|inhabit inhabited inhabits|govern governed governs|examine examined examines|demand demanded demands
"""
VERBS = {
    form: (do, base)
    for base, past, third in (row.split() for row in _VERB_TABLE.replace("\n", "").split("|"))
    for form, do in ((past, "did"), (third, "does"))
}
"""Verb forms that take an object, with how they are asked with. Bare forms are left out: too many are nouns."""

CREATED = (
    "designed|invented|discovered|founded|directed|composed|painted|written|built|published|produced|developed|"
    "introduced|created|established|led|released|commissioned|recorded|performed|conducted|signed|defeated|appointed|"
    "succeeded|adopted|launched|patented|described|proposed|named|organized|organised"
)
PAST_TENSE = {"written": "wrote"}
"""Past tense of the participles above where it is another word."""
