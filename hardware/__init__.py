"""Boards and energy meters. The floor of the house: knows no machine learning and no network."""
