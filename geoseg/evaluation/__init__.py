"""How good a map is: counts against the truth, summed window by window, and the scores that follow from them."""
