"""Wordings of the questions: one is drawn for each pair. Names in braces are filled in and never read as wordings.

A sentence that was taken out is called a summary only where it opened the text. Others share as many words with the
rest, but more often add a detail than sum it up.
"""

from __future__ import annotations

WORDINGS: dict[str, tuple[str, ...]] = {
    "lead_summary": (
        "Sum up the text in three sentences.",
        "Summarize this article in three sentences.",
        "The opening of this article is missing; it gives the main points. Write it.",
        "Write the summary that could stand at the head of this text.",
        "What are the main points of this text? Give a summary of three sentences.",
        "Give a short summary of what this article is about.",
    ),
    "gap_sentence": (
        "A sentence of this text was taken out. Write it, or one that could stand in its place.",
        "One sentence is missing from this passage. It shares much with the rest. What could it say?",
        "Write one more sentence that belongs in this text.",
        "Add to the passage a sentence that keeps to its subject.",
        "State in one sentence something else that this text could say about its subject.",
        "Which sentence has been left out of this passage?",
    ),
    "gap_opening": (
        "Sum up the text in a single sentence.",
        "Say in one sentence what this text is mainly about, as a summary would.",
        "What is the main point of this passage? Answer in one sentence.",
        "Write one sentence as a summary of the passage.",
        "Give the gist of the text in one sentence.",
        "Which single sentence would summarize this text?",
    ),
    "natural_question": (
        'The text asks: "{question}" How does it go on?',
        'In the text, this question comes up: "{question}" Which of these follows it there?',
        'The passage raises a question: "{question}" Choose what it says next.',
        'Which of these does the text say in reply to its own question, "{question}"',
        'Find what the passage answers when it asks: "{question}"',
    ),
    "topic": (
        "What is the topic of this text?",
        "Which topic does the article belong to?",
        "In which category would a newspaper put this text?",
        "Classify the article by its topic.",
        "Choose the topic that fits this passage best.",
    ),
}

SENTIMENTS: tuple[tuple[str, str, str], ...] = (
    ("Is the sentiment of this text positive or negative?", "Positive", "Negative"),
    ("What is the overall sentiment of the passage?", "Positive", "Negative"),
    ("Is the tone of the text rather positive or rather negative?", "Rather positive", "Rather negative"),
    ("Which mood do the words of this passage create?", "A bright mood", "A gloomy mood"),
    ("Going by the tone of the text, does it leave a good or a bad impression?", "A good one", "A bad one"),
)
"""(question, what stands for positive, for negative)."""
