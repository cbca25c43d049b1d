"""From the recipe to objects: the only place that reads a recipe's sections to build what training uses."""
