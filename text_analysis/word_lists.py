"""Word lists: stop words, fillers, negations and numbers.

The first three mix English, German, French, Spanish, Italian and Portuguese. Fitted coefficients depend on these lists:
after a change, fit them again.
"""

from __future__ import annotations


def word_set(words: str) -> frozenset[str]:
    """The words of a string, separated by spaces."""
    return frozenset(words.split())


# fmt: off
STOP_WORDS = word_set(
    # English
    "a an and are as at be been being but by can could did do does doing for from had has have having he her here hers "
    "him his how i if in into is it its itself just me more most my of off on once only or other our ours out over own "
    "she should so some such than that the their theirs them then there these they this those through to too under up "
    "us very was we were what when where which while who whom whose why will with would you your yours also about "
    "after before between both during each may might must shall upon via within per among "
    "myself yourself himself herself ourselves yourselves themselves "
    "yes yeah sure ok okay based according provided above below following "
    # German
    "der das den dem des ein eine einer eines einem einen und oder aber ist sind waren wird werden wurde wurden "
    "haben hatte hatten im in am an auf aus bei mit nach von vom zu zum zur für über unter durch als auch sich er "
    "sie es wir ihr ich dass daß wie was wer wo wann warum welche welcher welches diese dieser dieses so nur noch "
    # French
    "le la les l un une des du de d et ou est sont était étaient a ont au aux en dans par sur avec ce cette ces il "
    "elle ils elles on qui que qu se sa ses leur leurs plus "
    # Spanish, Italian, Portuguese
    "el las lo una uno unos y o es son era fue ser en con por para del al que se su sus como más il gli i della dei "
    "delle di da che è un nel nella per os as um uma do dos das no na nos nas com não"
)
FILLERS = word_set(
    "able addition additionally aim aims allow allowing allows although become becomes case cases common commonly "
    "consider considered considering create creates creating describe described different due ensure ensures ensuring "
    "especially even example examples following furthermore general generally get getting give given gives go help "
    "helping helps hence however if important include included includes including involve involved involves involving "
    "it's key known lead leading leads less like likely main make makes making many mention mentioned moreover much "
    "necessary need needed needs number offer offering offers often order overall part particular particularly parts "
    "people person possible potential potentially primary process provide provided provides providing range refer "
    "referred refers related require required requires result resulting results role several significant significantly "
    "since someone something specific still support supports such take takes taking term terms there's therefore thing "
    "things thus typically use used uses using usually variety various way ways well whether "
    "allerdings außerdem beispielsweise daher jedoch verschiedene wichtig zudem également ainsi donc cependant "
    "notamment además ejemplo importante inoltre embargo también tanto"
)
NEGATIONS = word_set(
    "not no never none nobody nothing neither nor cannot without nicht kein keine keinen keiner keinem nie niemals "
    "ohne ne pas jamais aucun aucune sans nunca ningún ninguna sin nessuno senza"
)
NUMBER_WORDS = {
    word: str(number) for number, word in enumerate((
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    ))
} | {"thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "%": "percent"}
# fmt: on
