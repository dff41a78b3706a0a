"""Pairs by rules whose labels the text itself supplies: the engine ``pseudo_labels``, which needs no model.

The rules are those of UDIT (Gu et al., "Learning Instructions with Unlabeled Data for Zero-Shot Cross-Task
Generalization", EMNLP 2022): the lead of an article is its summary, a question in a text is answered by what follows
it, a lexicon knows the sentiment. Such labels are often right and never checked, hence pseudo-labels. Wordings are our
own. What ``mined`` already does (keywords, cloze, completion) is not repeated here.
"""
