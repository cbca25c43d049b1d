"""Commands that plan, start, watch or report on a training run, and those that look at the machine."""
