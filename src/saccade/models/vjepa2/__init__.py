"""V-JEPA 2 and its action-conditioned predictor, and the files that Meta published of them."""
