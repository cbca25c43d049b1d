"""From the recipe to objects: the one place that reads a recipe's sections to build what training uses.

``data``: tokenizer, stores, languages, resume points; ``loader``; ``model``; ``optimizer``; ``schedules``;
``run_folder``: the files of a run.
"""
