"""Does a data set obey the contract of an action-conditioned V-JEPA 2?"""
