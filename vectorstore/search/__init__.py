"""From a query to passages: the plan of a search, its candidates and scores, and the passages made from them."""
