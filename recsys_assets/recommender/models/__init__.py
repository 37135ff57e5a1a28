"""The models, a module each: what is learnt from training rows, and what it predicts. `registry` lists them."""
