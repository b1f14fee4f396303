"""How sentences look that give orders to a language model. Six languages; English most.

Each pattern is about wording that a document has no other reason for: orders about orders, a model as the reader, orders about
the answer. A plain imperative ("ignore the warning light") is none of them.
"""

from __future__ import annotations

import re

_MODEL = r"(?:ai|a\.i\.|llms?|(?:large )?language[ -]models?|chat ?bots?|assistants?|chatgpt|gpt|claude|gemini|copilot)"
_ORDER = (
    r"(?:instructions?|prompts?|rules?|directions?|guidelines?|commands?|orders?|anweisung(?:en)?|vorgaben|regeln|"
    r"consignes?|instrucciones|istruzioni|instruções)"
)
_DROP = (
    r"(?:ignor\w*|disregard\w*|forget|override|bypass|vergiss|missachte\w*|oublie\w*|olvid\w*|dimentic\w*|"
    r"esque\w*)"
)
_WRITE = (
    r"(?:write|output|print|say|respond|reply|answer|generate|produce|return|include|mention|insert|add|repeat|ask|"
    r"use|append|recommend|schreib\w*|gib|antworte|erwähne|frag\w*|écri\w*|réponds?|mentionne\w*|escrib\w*|responde\w*|"
    r"menciona\w*)"
)
_WRITTEN = (
    r"(?:quer(?:y|ies)|questions?|outputs?|answers?|responses?|search(?:es)?|json|anfragen?|fragen?|requêtes?|"
    r"consultas?|preguntas?)"
)
_ALL = r"(?:every|each|all|any|your|jede[rsn]?|alle|chaque|cada|the following|only this|exactly this)"
_MUST = r"(?:must|should|shall|has to|have to|needs? to|will)"
_SPEAKS_TO = (
    r"(?:you are|you're|act as|pretend to be|attention|dear|hey|notes? (?:to|for)|notice to|message (?:to|for)|"
    r"instructions? (?:to|for))"
)
_ONLY = r"(?:only|exactly|just|nothing but|the (?:words?|phrase|text|sentence|string))"

_ABOUT_ORDERS = (
    rf"\b{_DROP}\b[^.!?\n]{{0,60}}\b{_ORDER}\b",
    r"\b(?:ignor\w*|disregard\w*|forget)\b[^.!?\n]{0,30}\b(?:everything|all|anything)\b[^.!?\n]{0,20}"
    r"\b(?:above|before|earlier|previous\w*)\b",
    rf"\b(?:new|updated|real|actual|important|hidden|secret|system)\s+{_ORDER}\s*(?::|for\b|follow)",
    r"\b(?:system prompt|developer message|prompt injection|jailbreak|do anything now)\b",
    r"\byour (?:initial|original|previous) (?:instructions|prompt)\b",
    r"\b(?:reveal|repeat|show|print|leak)\b[^.!?\n]{0,40}\b(?:your|the above|the hidden|system)\b[^.!?\n]{0,20}"
    r"\b(?:instructions?|prompts?|rules?|code|number)\b",
)
_TO_A_MODEL = (
    rf"\b{_SPEAKS_TO}\b[^.!?\n]{{0,20}}\b{_MODEL}\b",
    rf"\bif you(?:'re| are)[^.!?\n]{{0,20}}\b{_MODEL}\b",
    r"^\s*(?:#+\s*)?(?:system|assistant|instruction)s?\s*:\s*\S",
)
_ABOUT_THE_ANSWER = (
    rf"\b{_WRITE}\b[^.!?\n]{{0,80}}\b{_ALL}\s+(?:\w+\s+)?{_WRITTEN}\b",
    rf"\b(?:every|each|all|your)\s+(?:\w+\s+){{0,2}}{_WRITTEN}\s+(?:\w+\s+)?{_MUST}\b",
    rf"\b(?:output|print|say|respond with|reply with|answer with|return)\s+{_ONLY}\b",
    rf"\binstead\b[^.!?\n]{{0,20}}\b{_WRITE}\b|\b{_WRITE}\b[^.!?\n]{{0,80}}\binstead\b",
)
PLANTED = re.compile("|".join((*_ABOUT_ORDERS, *_TO_A_MODEL, *_ABOUT_THE_ANSWER)), re.IGNORECASE | re.MULTILINE)
"""Finds a sentence that gives orders to a model."""

REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am)? (?:sorry|can(?:no|')t|unable|not able|won't)|as an ai\b|as a (?:large )?language model|sorry,|"
    r"unfortunately, i|es tut mir leid|ich kann (?:das|dies|leider) nicht|je (?:suis désolé|ne peux pas)|lo siento)",
    re.IGNORECASE,
)
"""Finds an answer that declines."""

ABOUT_THE_DOCUMENT = re.compile(
    r"\b(?:according to|based on|mentioned in|described in|stated in|given in|in) (?:the|this) "
    r"(?:(?:above|given|following|provided) )?(?:document|passage|text|excerpt|context)\b",
    re.IGNORECASE,
)
"""Finds a question that only makes sense beside its document."""

TALK = frozenset(
    """
    ignore ignoriere ignorez disregard forget previous above earlier instruction instructions prompt prompts rule rules
    system user assistant model language query queries question questions answer answers respond response reply write output
    print say generate produce return include mention insert add repeat ask use append recommend recommended instead only
    exactly just following every each must should new important attention note document passage text word words phrase
    sentence step steps need want please make sure always never about information help visit contact find get
    """.split()
)
"""What orders are made of: these words may stand in an honest query about the rest of the passage."""
