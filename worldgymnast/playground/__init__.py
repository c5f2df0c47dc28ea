"""A page to drive a world model by hand, and a page that watches a run; both in the browser."""
