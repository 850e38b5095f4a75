"""Generated sentences in Bark's 13 languages, with cues, symbols and the odd characters of real input."""

import random
import unicodedata

WORDS = {
    "en": "hello my dog is cute and the weather was wonderful yesterday don't you think so Mr. Smith's 3rd café",
    "de": "guten Tag schöne Grüße aus München Straßenbahnhaltestelle über größer Äpfel Öl Übung heißt nicht wahr",
    "es": "¿qué tal mañana niño corazón él está aquí ¡vámonos! pingüino año acción más rápido señorita después",
    "fr": "où est l'hôtel s'il vous plaît garçon déjà œuvre cœur naïve français aujourd'hui çà et là très bientôt",
    "hi": "नमस्ते दुनिया मेरा नाम क्या है हिन्दी में बोलो अच्छा धन्यवाद विद्यार्थी क्षत्रिय ज्ञान श्रीमती प्रेम हूँ",
    "it": "perché no città più buongiorno è così bello andiamo università gnocchi virtù l'amico un po' caffè",
    "ja": "こんにちは 世界 私の名前は田中です 東京へ行きましょう ありがとう ラーメン コーヒー がぎぐ 今日は良い天気",
    "ko": "안녕하세요 세계 제 이름은 김철수입니다 서울에 갑시다 감사합니다 한국어 뷁 값어치 읽다 괜찮아요",
    "pl": "dzień dobry świat źdźbło żółw łódź gęś ćma jestem szczęśliwy proszę bardzo książka",
    "pt": "olá mundo não coração avião maçã você está bem obrigado às ônibus informação português",
    "ru": "привет мир меня зовут Иван сегодня хорошая погода ёлка съезд подъём спасибо пожалуйста йогурт",
    "tr": "merhaba dünya İstanbul'da ılık ırmak çiçek şeker ağaç güneş öğretmen teşekkür ederim kırmızı",
    "zh": "你好世界 我的名字是小明 今天天气很好 谢谢 中文 漢字 龍 北京大学 我們去吃飯吧 〇 㐀",
}

CUES = [
    "[laughs]",
    "[laughter]",
    "[sighs]",
    "[music]",
    "[gasps]",
    "[clears throat]",
    "[MAN]",
    "WOMAN:",
    "—",
    "…",
    "♪",
    "...",
]

SYMBOLS = [
    "😀",
    "👩‍👩‍👧",
    "🇩🇪",
    "❤️",
    "👍🏽",
    "€5",
    "100%",
    "a@b.co",
    "#1",
    "½",
    "™",
    "\u00ad",
    "№",
    "“ja”",
    "「はい」",
    "，",
    "。",
    "！",
]

# Decomposed accents, Devanagari with joiners, jamo, points, bidirectional marks, other scripts, rare white space.
ODDITIES = [
    "e\u0301te\u0301",
    "n\u0303",
    "क्\u200dष",
    "र्\u200cय",
    "\u1112\u1161\u11ab",
    "か\u3099",
    "שָׁלוֹם",
    "\u200fمرحبا\u200e",
    "ไทย",
    "a\u00a0b",
    "a\u3000b",
    "a\u2028b",
    "x\ufeffy",
    "ﬁ",
    "Ⅷ",
    "𝒳",
    "𠀀",
    "ＡＢＣ",
    "\ufffdz",
    "a\u200bb",
    "\ue000q",
]

JOINERS = [" "] * 12 + ["  ", "\n", "\t", "\r\n", "", ", ", ". ", "! ", "? ", "-"]


def make_sentences(n: int, seed: int = 0) -> list[str]:
    """n sentences in NFC, the same for the same seed: mostly one language each, one in eight of several."""
    draw = random.Random(seed)
    sentences = []
    for index in range(n):
        language = list(WORDS)[index % len(WORDS)]
        words = WORDS[language].split(" ")
        if draw.random() < 0.125:
            words = words + WORDS[draw.choice(list(WORDS))].split(" ")
        sentences.append(_sentence(draw, words))
    return sentences


def _sentence(draw: random.Random, words: list[str]) -> str:
    parts = []
    for _ in range(draw.randint(1, 14)):
        kind = draw.random()
        source = CUES if kind < 0.08 else SYMBOLS if kind < 0.14 else ODDITIES if kind < 0.2 else words
        word = draw.choice(source)
        parts.append(_misspelt(draw, word) if draw.random() < 0.3 else word)
        parts.append(draw.choice(JOINERS))
    return unicodedata.normalize("NFC", draw.choice(words) + " " + "".join(parts))


def _misspelt(draw: random.Random, word: str) -> str:
    """Misspells a word: capitals, doubled, or a character dropped or moved. Tokenizers then split it into pieces."""
    index = draw.randrange(len(word))
    rest = word[:index] + word[index + 1 :]
    other = draw.randint(0, len(rest))
    return draw.choice([word.upper(), word + word, rest, rest[:other] + word[index] + rest[other:]])
