"""Texts for speech in many languages. Knows words only.

A line is put together anew from a language's own phrases and numbers, so that no two clips say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "en-us": (
            "the map is on the table by the window",
            "please bring my father a warm blanket",
            "five thieves fled from the village at dawn",
            "we shall see whether the weather improves",
            "a blue whale swam beneath the old bridge",
            "Bob and Pam made a pie with plums",
            "you know how to row a boat, do you not",
            "the judge asked the witness a thorough question",
            "I would rather walk than wait for the bus",
            "measure twice and cut only once",
        ),
        "en": (
            "what a lovely morning for a walk by the river",
            "the farmer's dog barked all through the night",
            "put the butter back before it melts",
            "she usually leaves the house about half past four",
            "nobody noticed the visitor behind the curtain",
            "my brother would not move to Manchester",
            "thirty-three thousand feathers fell from above",
            "the choir sang while the moon rose",
        ),
        "de": (
            "der Mond scheint hell über dem Meer",
            "bitte bringen Sie mir ein Glas Wasser",
            "meine Mutter backt am Samstag einen Apfelkuchen",
            "fünf Vögel flogen über das Feld",
            "wir wollen morgen früh nach Hamburg fahren",
            "das Buch liegt unter dem Bett",
            "ich weiß nicht, warum der Zug so spät kommt",
            "schöne Grüße an die ganze Familie",
        ),
        "fr": (
            "la petite fille mange une pomme rouge",
            "je voudrais un billet pour Bordeaux, s'il vous plaît",
            "mon père habite près de la rivière",
            "nous avons vu un beau bateau bleu",
            "le vent souffle fort sur la plage",
            "où est passé le chapeau de monsieur Dupont",
            "vous parlez beaucoup trop vite pour moi",
            "un bon vin blanc et du pain frais",
        ),
        "es": (
            "el perro de mi abuelo duerme bajo la mesa",
            "mañana por la mañana iremos a la playa",
            "buenas tardes, quiero hablar con la profesora",
            "los pájaros vuelan sobre el campo verde",
            "mi hermano menor vive en un pueblo pequeño",
            "no sé por qué llueve tanto en abril",
            "una familia feliz prepara la comida",
            "baja la ventana y mira las nubes",
        ),
        "pt": (
            "o menino come uma maçã vermelha",
            "minha mãe mora perto do mar",
            "bom dia, eu gostaria de um café",
            "vamos passear pela praia amanhã",
            "o avô conta uma história muito velha",
            "a janela do quarto está aberta",
            "pouca gente fala devagar por aqui",
        ),
        "nl": (
            "de man met de baard leest een boek",
            "mag ik een kopje koffie met melk",
            "we wonen bij een brug over het water",
            "mijn vader bouwt een houten huis",
            "vijf vogels vliegen over de velden",
            "waarom kom je vandaag zo laat thuis",
            "het mooie weer blijft tot woensdag",
        ),
        "pl": (
            "moja mama piecze dobry chleb",
            "proszę mówić trochę wolniej",
            "w lesie mieszka mały brązowy niedźwiedź",
            "pięć ptaków lata nad polem",
            "wczoraj padał deszcz przez cały wieczór",
            "babcia opowiada wnukom bajkę",
            "samolot poleciał na południe",
        ),
        "ru": (
            "мама мыла раму в большом доме",
            "папа читает газету перед обедом",
            "завтра утром мы поедем на море",
            "белая птица поёт за окном",
            "сколько времени идёт поезд в город",
            "пожалуйста, говорите немного медленнее",
            "у моего брата пять весёлых собак",
        ),
        "tr": (
            "annem mutfakta börek pişiriyor",
            "bugün hava çok güzel ve ılık",
            "babam her sabah vapurla işe gider",
            "küçük köpek bahçede uyuyor",
            "bana bir bardak su verir misiniz",
            "mavi deniz ve beyaz bulutlar",
            "beş arkadaş yavaş yavaş yürüyor",
        ),
        "cs": (
            "maminka peče dobrou bábovku",
            "můj bratr bydlí blízko vody",
            "prosím vás, kolik je hodin",
            "pět ptáků letí nad polem",
            "v pátek budeme mít volno",
            "malý bílý pes běhá po zahradě",
        ),
        "fi": (
            "vanha mies lukee kirjaa ikkunan vieressä",
            "huomenna aamulla menemme veneellä saareen",
            "pieni punainen talo on mäen päällä",
            "voinko saada kupin kahvia ja pullan",
            "viisi lintua lentää pellon yli",
            "äiti puhuu puhelimessa ystävänsä kanssa",
        ),
        "el": (
            "η μητέρα μου μαγειρεύει φασολάδα",
            "πού είναι το μπλε βιβλίο μου",
            "αύριο το πρωί θα πάμε στη θάλασσα",
            "πέντε πουλιά πετάνε πάνω από το βουνό",
            "ο παππούς λέει ένα παλιό παραμύθι",
        ),
        "id": (
            "ibu memasak nasi di dapur",
            "besok pagi kami pergi ke pantai",
            "bapak membaca buku di bawah pohon",
            "lima burung terbang di atas sawah",
            "boleh saya minta segelas air putih",
        ),
        "it": (
            "la mamma prepara una buona minestra",
            "domani mattina andiamo al mare",
            "mio fratello abita vicino al fiume",
            "vorrei un bicchiere di vino bianco",
            "cinque uccelli volano sopra il campo",
            "il vecchio pescatore beve un caffè",
        ),
        "sv": (
            "mamma bakar bullar i köket",
            "en liten fågel sjunger utanför fönstret",
            "vi bor i ett rött hus vid vattnet",
            "i morgon bitti far vi till havet",
            "farfar berättar en gammal saga",
            "fem vita båtar ligger vid bryggan",
        ),
        "hu": (
            "az anyám finom levest főz vasárnap",
            "a kis fehér kutya a kertben fut",
            "holnap reggel elmegyünk a folyóhoz",
            "öt madár repül a mező fölött",
            "a nagyapám mesét mond az unokáknak",
        ),
    }
)

HELD_OUT = ("it", "sv", "hu")
"""Languages that nothing is trained on."""

SPELT = (
    *("af", "az", "bs", "ca", "cy", "da", "eo", "et", "eu", "haw", "hr", "is", "la", "lt", "lv", "ms", "mt", "nb"),
    *("ro", "sk", "sl", "sq", "sw"),
)
"""Languages without phrases here, whose voices read syllables out."""

TRAINED = (*(language for language in PHRASES if language not in HELD_OUT), *SPELT)

_ONSETS = (*"bdfghjklmnprstvz", "", "", "br", "kr", "pl", "st", "tr", "sh", "ch", "fl", "gr", "sm", "kw")
_NUCLEI = (*"aeiou", *"aeiou", "ai", "au", "ei", "oi", "ou", "ia", "ie", "io", "ue")
_CODAS = ("", "", "", "", *"lmnrstp", "nd", "st")


def line(language: str, generator: np.random.Generator) -> str:
    """Two to four pieces with pauses between them: phrases, words mixed, words that nobody has, and numbers."""
    pieces = [_piece(language, generator) for _ in range(generator.integers(2, 5))]
    marks = generator.choice(np.array([",", ".", ".", ";", "?"]), len(pieces))
    return " ".join(f"{piece}{mark}" for piece, mark in zip(pieces, marks, strict=True))


def _piece(language: str, generator: np.random.Generator) -> str:
    kind = generator.random()
    if kind < 0.1:
        return str(generator.integers(2, 9999))
    if kind < 0.4 or language in SPELT:
        return " ".join(_word(generator) for _ in range(generator.integers(2, 7)))
    phrases = PHRASES[language]
    if kind < 0.65:
        return phrases[generator.integers(len(phrases))]
    words = " ".join(phrases).replace(",", "").split()
    return " ".join(generator.choice(np.array(words), generator.integers(3, 9)))


def _word(generator: np.random.Generator) -> str:
    """One to three syllables that any language with Latin letters can say in its way. Without them a network learns
    the few phrases by heart, and hears nothing in others."""

    def one(of: tuple[str, ...]) -> str:
        return of[generator.integers(len(of))]

    return "".join(one(_ONSETS) + one(_NUCLEI) + one(_CODAS) for _ in range(generator.integers(1, 4)))
