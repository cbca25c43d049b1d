"""The plan of a recipe, computed before anything is trained: steps, languages, epochs, arithmetic, time."""
