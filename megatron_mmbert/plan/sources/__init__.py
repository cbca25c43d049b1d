"""The published data sets that a recipe's sources come from, and the commands that download them."""
