"""What a recipe would do, computed before anything is trained: steps, languages, epochs, arithmetic, time."""
