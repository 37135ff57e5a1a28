"""From scores of a model to ranks and lists, and to the reasons for them."""
