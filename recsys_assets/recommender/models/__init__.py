"""The models, one module each: `fit` learns from training rows, and a class predicts. `registry` lists them."""
