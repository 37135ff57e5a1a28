"""The study: which settings and which models a validation slice of the training rows chooses, and what was tried."""
