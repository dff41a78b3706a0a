"""Wordings of questions: a table from kind of question to several wordings.

A wording is drawn for each pair independently. Names in braces are replaced by what the pattern found; the inserted
pieces are never interpreted as wordings themselves.
"""

from __future__ import annotations

WORDINGS: dict[str, tuple[str, ...]] = {
    "completion": (
        "How does the text go on?",
        "The text breaks off here. Write the rest of it.",
        "Continue the text from where it ends.",
        "Complete the passage above.",
        "What comes next in this text?",
        "Please finish this passage.",
    ),
    "title": (
        "What would be a fitting title for this text?",
        "Give the text a title.",
        "What is this passage about? Answer with a short title.",
        "Sum up the subject of the text in a few words.",
        "Under which heading might this passage appear?",
        "Name the topic of the passage.",
        "If you had to file this text under one title, what would it be?",
    ),
    "why inverted": (
        "Why {inverted}?",
        "According to the text, why {inverted}?",
        "What reason does the text give? Why {inverted}?",
        "Why, as the passage explains, {inverted}?",
        "Explain with the help of the passage: why {inverted}?",
    ),
    "why": (
        "The text says: {quote} What reason does it give?",
        "Why is this so, according to the passage? {quote}",
        "What explanation does the text offer for the following? {quote}",
        "Give the reason that the passage names for this: {quote}",
        "{quote} Why?",
        "What is the cause of the following, as the text tells it? {quote}",
    ),
    "reason for": (
        "The text says: {quote} What reason does it give?",
        "Why is this so, according to the passage? {quote}",
        "What explanation does the text offer for the following? {quote}",
        "How does the passage explain this: {quote}",
    ),
    "result of": (
        "What follows from this, according to the text? {quote}",
        "The passage states: {quote} What is the result?",
        "What consequence does the text draw from the following? {quote}",
        "{quote} What does this lead to, according to the passage?",
        "Name the effect that the text describes. Cause: {quote}",
    ),
    "due to": (
        "What {aux} {subject} {adverb}{due} to?",
        "According to the text, what {aux} {subject} {adverb}{due} to?",
        "To what {aux} {subject} {adverb}{due}, as the passage has it?",
    ),
    "purpose": (
        "For what purpose, according to the text? {quote}",
        "The passage says: {quote} To what end?",
        "{quote} What was the aim of this?",
        "What does the text give as the purpose of the following? {quote}",
    ),
    "verb object": (
        "What {do} {subject} {verb}?",
        "According to the text, what {do} {subject} {verb}?",
        "What, in the words of the passage, {do} {subject} {verb}?",
    ),
    "contrast to": (
        "With what does the text contrast the following? {quote}",
        "The passage says: {quote} What does it set against this?",
        "{quote} What is different in the case that the text compares with this one?",
        "Which contrasting fact does the passage give? {quote}",
    ),
    "but": (
        "The text says: {quote} What does it add that limits or contrasts with this?",
        "{quote} What does the passage go on to say in contrast?",
        "What contrasting point does the text make after saying this? {quote}",
        "Which reservation or contrast follows in the passage? {quote}",
        "How does the text qualify this statement? {quote}",
    ),
    "although": (
        "What does the text say is the case, {link} {fact}?",
        "{Link} {fact}, what is true according to the passage?",
        "Complete the thought as the text does: {Link} {fact}, ...",
        "What contrasts, in the passage, with the fact that {fact}?",
    ),
    "despite": (
        "What was or is the case {link} {phrase}, according to the text?",
        "Complete the thought as the passage does: {Link} {phrase}, ...",
        "{Link} {phrase}, what does the text report?",
    ),
    "unlike": (
        "What difference from {phrase} does the text mention?",
        "What contrast does the passage draw with {phrase}?",
        "Complete the comparison from the text: Unlike {phrase}, ...",
    ),
    "what is": (
        "What {aux} {subject}?",
        "According to the text, what {aux} {subject}?",
        "How does the passage define or describe {subject}?",
        "Say in a sentence what {subject} {aux}.",
        "Explain what {subject} {aux}, using the text.",
    ),
    "who is": (
        "Who {aux} {subject}?",
        "According to the text, who {aux} {subject}?",
        "What does the passage tell us about who {subject} {aux}?",
        "How does the text introduce {subject}?",
    ),
    "describe": (
        "How does the text describe {subject}?",
        "In which words does the passage describe {subject}?",
        "What description of {subject} does the text give?",
    ),
    "apposition": (
        "How does the text describe {subject}?",
        "What does the passage add to explain the name {subject}?",
        "In a few words, what does the text say about {subject}?",
    ),
    "who or what": (
        "Who or what {deed}?",
        "According to the text, who or what {deed}?",
        "Which person, place or thing {deed}?",
        "The text tells who or what {deed}. Give the name.",
    ),
    "who subject": (
        "Who {deed}?",
        "According to the text, who {deed}?",
        "Name the person who {deed}.",
    ),
    "how many are there": (
        "How many {things} {aux} there {rest}?",
        "According to the passage, how many {things} {aux} there {rest}?",
    ),
    "how many subject": (
        "How many {counted}?",
        "According to the text, how many {counted}?",
        "The passage gives a number here: how many {counted}?",
    ),
    "defined as": (
        "How {aux} {subject} defined?",
        "What is the definition of {subject} in the text?",
        "Define {subject} as the passage does.",
    ),
    "another name": (
        "What is another name for {subject}?",
        "By what other name does the text refer to {subject}?",
        "Which other name for {subject} does the passage give?",
    ),
    "called": (
        "What {aux} {subject} {manner}?",
        "According to the text, what {aux} {subject} {manner}?",
        "Which name does the passage give to {subject}?",
    ),
    "acronym": (
        "What does {short} stand for?",
        "What is {short} short for, according to the text?",
        "Write out the abbreviation {short} as it is used in the passage.",
        "In this text, what is meant by {short}?",
    ),
    "what be": (
        "What {aux} {subject} {manner}?",
        "According to the text, what {aux} {subject} {manner}?",
        "The passage tells what {subject} {aux} {manner}. What is it?",
    ),
    "used to": (
        "What {aux} {subject} {manner} for?",
        "For what {aux} {subject} {manner}, according to the text?",
        "What use of {subject} does the passage mention?",
    ),
    "by what": (
        "Who or what {aux} {subject} {manner} by?",
        "By whom or by what {aux} {subject} {manner}, according to the text?",
        "The passage says who or what {subject} {aux} {manner} by. Name it.",
    ),
    "how": (
        "How {aux} {subject} {manner}?",
        "According to the passage, how {aux} {subject} {manner}?",
        "In what way {aux} {subject} {manner}, as the text explains it?",
    ),
    "who did": (
        "Who {past} {subject}?",
        "According to the text, who {past} {subject}?",
        "The passage names who {past} {subject}. Who was it?",
        "By whom was {subject} {participle}?",
    ),
    "where": (
        "Where {aux} {subject} {manner}?",
        "According to the passage, where {aux} {subject} {manner}?",
        "The text says where {subject} {aux} {manner}. What place does it name?",
    ),
    "where verb": (
        "Where {do} {subject} {verb}?",
        "According to the text, where {do} {subject} {verb}?",
        "In what place, as the passage tells it, {do} {subject} {verb}?",
    ),
    "how many": (
        "How many {things} {do} {subject} {verb}?",
        "According to the text, how many {things} {do} {subject} {verb}?",
        "What number of {things} {do} {subject} {verb}, as stated in the passage?",
    ),
    "how long": (
        "How {dimension} {aux} {subject}?",
        "According to the text, how {dimension} {aux} {subject}?",
        "The passage says how {dimension} {subject} {aux}. What figure does it give?",
    ),
    "measure": (
        "What is the {measure} of {subject}, according to the text?",
        "Which {measure} does the passage give for {subject}?",
        "What {measure} is stated for {subject}?",
    ),
    "examples": (
        "Which examples of {things} does the text give?",
        "Name the {things} that the passage mentions as examples.",
        "What {things} are mentioned as examples in the text?",
    ),
    "when inverted": (
        "When {inverted}?",
        "According to the text, when {inverted}?",
        "When, as the passage tells it, {inverted}?",
    ),
    "when did": (
        "When {aux} {subject} {deed}?",
        "According to the text, when {aux} {subject} {deed}?",
        "What date or year does the passage give for when {subject} {aux} {deed}?",
    ),
    "when": (
        "What time does the text give for the following? {quote}",
        "To what date or period does the passage assign this? {quote}",
        "When was this, according to the text? {quote}",
        "{quote} When was that, as the passage tells it?",
    ),
    "in other words": (
        "How does the text put the following in other words? {quote}",
        "The passage says the same thing twice. Give its second wording of this: {quote}",
        "Restate this as the text does: {quote}",
        "{quote} How does the passage rephrase this?",
    ),
    "example": (
        "What example does the text give of the following? {quote}",
        "The passage says: {quote} How does it illustrate this?",
        "{quote} Give the example from the text.",
        "Which instance does the passage offer in support of this? {quote}",
    ),
    "cloze year": (
        "Which year is missing from this sentence of the text? {gapped}",
        "Fill in the year: {gapped}",
        "Put the right year into the gap, following the passage. {gapped}",
    ),
    "cloze name": (
        "Which name belongs in the gap? {gapped}",
        "Fill in the missing name from the text: {gapped}",
        "Complete the sentence with the name that the passage uses. {gapped}",
    ),
    "cloze number": (
        "Which number is missing? {gapped}",
        "Fill in the figure that the text gives: {gapped}",
        "Supply the missing number from the passage. {gapped}",
    ),
    "cloze word": (
        "Fill in the missing word: {gapped}",
        "Which word of the text belongs in the gap? {gapped}",
        "Complete the sentence with one word from the passage. {gapped}",
        "Supply the word that has been left out. {gapped}",
    ),
    "entailment": (
        "Is the following statement true or false according to the text? {quote}",
        "Judge from the passage whether this is true. {quote}",
        "True or false: {quote}",
        "Does this statement agree with the text? Answer true or false. {quote}",
        "Check this claim against the passage and say whether it is true or false: {quote}",
    ),
    "order of events": (
        "Which of these came first, according to the text?",
        "Which event does the passage place earlier in time?",
        "Using the dates in the text, say which of the following is the earlier one.",
    ),
    "word to text": (
        "Write a sentence about the topic of the text that uses these words: {words}.",
        "What does the passage say with the words {words}? Answer in one sentence.",
        "Make a sentence, true to the text, from these terms: {words}.",
        "Using the terms {words}, state a fact from the passage.",
    ),
    "text to word": (
        "List the key terms of this sentence: {quote}",
        "Which technical or descriptive words carry the meaning of this sentence? {quote}",
        "Pick out the key words in the following: {quote}",
    ),
}
